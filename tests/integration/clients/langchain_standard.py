"""LangChain's standard tests of chat models, for `ChatOpenAI` and a running server. Run by the pytest of its environment.

`BASE_URL`, `MODEL`, `OTHER_MODEL` and `ABILITIES` come from the environment.
"""

from __future__ import annotations

import os
from typing import Any

from langchain_core.language_models import BaseChatModel
from langchain_openai import ChatOpenAI
from langchain_tests.integration_tests import ChatModelIntegrationTests

ABILITIES = os.environ["ABILITIES"].split(",")


class TestStandard(ChatModelIntegrationTests):
    """What the server can't do is what `GET /v1/models` says; the suite skips those tests."""

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatOpenAI

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {
            "base_url": f"{os.environ['BASE_URL']}/v1",
            "api_key": "none",
            "model": os.environ["MODEL"],
            "max_tokens": 500,
            "seed": 7,
            "max_retries": 0,
            "stream_usage": True,
        }

    @property
    def has_tool_calling(self) -> bool:
        return "tools" in ABILITIES

    @property
    def has_tool_choice(self) -> bool:
        return "tools" in ABILITIES

    @property
    def has_structured_output(self) -> bool:
        return "structured_output" in ABILITIES

    @property
    def structured_output_kwargs(self) -> dict[str, Any]:
        return {"method": "json_schema"}

    @property
    def supports_json_mode(self) -> bool:
        return "structured_output" in ABILITIES

    @property
    def model_override_value(self) -> str:
        return os.environ["OTHER_MODEL"]
