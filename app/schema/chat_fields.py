"""The fields of bodies that only a chat has: the variables of its template, where the answer begins, and tools."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from app.errors import InvalidRequest
from app.schema.fields import Fields, field_error
from app.schema.tool_fields import ToolChoice, ToolFields, chosen_tools, for_a_message


def _some_or_all(tokens: int) -> int:
    if not tokens:
        raise field_error("must be -1 or at least 1")
    return tokens


# -1 is "as many as fit", as in llama.cpp.
SomeOrAll = Annotated[int, Field(ge=-1), AfterValidator(_some_or_all)]
TemplateVariables = Annotated[dict[str, Any], AfterValidator(for_a_message)]


class TemplateFields(Fields):
    """How a chat becomes a prompt. The tools themselves are a field of each body: the dialects differ in them."""

    chat_template_kwargs: TemplateVariables = Field(
        default={}, description="Variables of the model's chat template, such as enable_thinking."
    )
    add_generation_prompt: bool | None = Field(
        default=None, description="false: the template does not begin the answer. true is the default."
    )
    continue_final_message: bool = Field(
        default=False, description="The answer goes on in the last message, which the template does not end."
    )
    tool_choice: ToolChoice = Field(
        default="auto",
        description="Whether the model calls tools: never (`none`), if it wants to, always (`required`), the named one, or "
        "some of them.",
    )

    def _of_the_template(self, tools: Sequence[ToolFields]) -> dict[str, Any]:
        """The fields of a `GenerationRequest` that these and `tools` say. Raises `InvalidRequest` for what contradicts itself."""
        if self.continue_final_message and self.add_generation_prompt:
            raise InvalidRequest(
                "continue_final_message is only allowed without add_generation_prompt.",
                param="continue_final_message",
            )
        chosen, tool_choice = chosen_tools(tools, self.tool_choice)
        return {
            "chat_template_kwargs": self.chat_template_kwargs,
            "add_generation_prompt": self.add_generation_prompt is not False
            and not self.continue_final_message,
            "continue_final_message": self.continue_final_message,
            "tools": chosen,
            "tool_choice": tool_choice,
        }


class ChatFields(TemplateFields):
    """The same, and what becomes of the answer."""

    parallel_tool_calls: bool = Field(
        default=True, description="Whether the model may call several tools at once."
    )
    include_reasoning: bool = Field(
        default=True, description="false: what the model thinks before it answers is not sent."
    )

    def _of_the_chat(self, tools: Sequence[ToolFields]) -> dict[str, Any]:
        """The fields of a `GenerationRequest` that these and `tools` say. Raises `InvalidRequest` for what contradicts itself."""
        return self._of_the_template(tools) | {
            "parallel_tool_calls": self.parallel_tool_calls,
            "include_reasoning": self.include_reasoning,
        }
