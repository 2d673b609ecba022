"""The bodies and answers of `POST /tokenize` and `POST /detokenize`, in vLLM's shapes."""

from __future__ import annotations

from typing import Annotated, TypedDict

from pydantic import ConfigDict, Field

from app.errors import InvalidRequest
from app.schema.chat_fields import TemplateFields
from app.schema.fields import Fields, ModelName, TokenIds
from app.schema.messages import OpenAIChatMessages, to_messages
from app.schema.requests import GenerationRequest
from app.schema.sampling import SamplingParams
from app.schema.tool_fields import OpenAITools


class _TokenizerBody(Fields):
    model_config = ConfigDict(extra="ignore")

    model: ModelName | None = Field(default=None, description="May be left out when there is one model.")

    def model_name(self, default_model: str | None) -> str:
        """The model that is meant; `default_model` is the only one's name. Raises `InvalidRequest`."""
        name = self.model or default_model
        if name is None:
            raise InvalidRequest("model is required: several models are served here.", param="model")
        return name


class TokenizeBody(_TokenizerBody, TemplateFields):
    """A prompt or a chat, which becomes the tokens that the same prompt or chat becomes in a request for text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"prompt": "Once upon a time"}]})

    prompt: Annotated[str, Field(min_length=1)] | None = None
    messages: OpenAIChatMessages | None = None
    add_special_tokens: bool = Field(default=True, description="Of a prompt. A template adds its own.")
    tools: OpenAITools = Field(default=[], description="Functions that the template shows to the model.")
    return_token_strs: bool = Field(default=False, description="Send the names of the tokens, too.")

    def to_request(self, default_model: str | None) -> GenerationRequest:
        """A request with this prompt. Raises `InvalidRequest`."""
        if (self.prompt is None) == (self.messages is None):
            raise InvalidRequest("Exactly one of prompt and messages is required.", param="prompt")
        return GenerationRequest(
            model=self.model_name(default_model),
            sampling=SamplingParams(max_tokens=0),
            prompt=self.prompt,
            messages=None if self.messages is None else to_messages(self.messages),
            add_special_tokens=self.add_special_tokens,
            **self._of_the_template(self.tools),
        )


class DetokenizeBody(_TokenizerBody):
    """Token ids, which become text."""

    model_config = ConfigDict(json_schema_extra={"examples": [{"tokens": [1, 42]}]})

    tokens: TokenIds


class Tokenized(TypedDict):
    """The tokens of a prompt. `token_strs` are their names, if they were asked for."""

    count: int
    max_model_len: int
    tokens: list[int]
    token_strs: list[str] | None


class Detokenized(TypedDict):
    prompt: str
