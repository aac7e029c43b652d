"""How some vendors' Chat Completions differ from OpenAI's, as strict as their services are.

DeepSeek's and Moonshot's models think by default and want the thinking of all turns back once a
tool was called (DeepSeek's guide to its thinking mode; MoonshotAI/kimi-cli#2141; Moonshot refuses
"" too, charmbracelet/crush#2696). Mistral wants ids of its own form (anomalyco/opencode#1680). It,
Groq and Cerebras refuse fields that they do not know (charmbracelet/crush#1590, karthink/gptel#774,
QwenLM/qwen-code#11045).
"""

from __future__ import annotations

import re
import secrets
from typing import Any

import msgspec

from bifrost.errors import InvalidRequest

_NINE = re.compile(r"[a-zA-Z0-9]{9}")
_KNOWN = {"role", "content", "name", "tool_calls", "tool_call_id"}
THOUGHT = "The user wants something, and a tool may help."


class Manner(msgspec.Struct, frozen=True, kw_only=True):
    """One vendor's. ``thinks``: the field of its thinking; ``due``: the sentence of its 400 where
    that is missing; ``short_ids``: ids of calls are nine letters or digits; ``strict``: fields of
    messages that it does not know are refused."""

    thinks: str = ""
    due: str = ""
    short_ids: bool = False
    strict: bool = False

    def check(self, messages: list[dict[str, Any]]) -> None:
        """Raises InvalidRequest for what this vendor refuses and OpenAI does not."""
        called = any(message.get("tool_calls") for message in messages)
        for index, message in enumerate(messages):
            calls = message.get("tool_calls") or []
            told = message["role"] != "assistant" or message.get(self.thinks)
            if self.due and called and not told:
                raise InvalidRequest(self.due.format(index=index))
            if self.short_ids:
                self._check_ids([*(call["id"] for call in calls), message.get("tool_call_id")])
            if self.strict and (unknown := message.keys() - _KNOWN - {self.thinks}):
                raise InvalidRequest(
                    f"'messages.{index}' : for 'role:{message['role']}' the following must be "
                    f"satisfied[('messages.{index}' : property '{min(unknown)}' is unsupported)]"
                )

    @staticmethod
    def _check_ids(names: list[str | None]) -> None:
        for name in names:
            if name is not None and not _NINE.fullmatch(name):
                raise InvalidRequest(
                    f"Tool call id was {name} but must be a-z, A-Z, 0-9, with a length of 9."
                )

    def call_id(self, serial: bytes) -> bytes:
        """The id of a call."""
        return secrets.token_hex(5)[:9].encode() if self.short_ids else b"call_" + serial

    def thought(self) -> bytes:
        """The member that thinking is, with a comma behind it; nothing where it does not think."""
        return b'"%b":"%b",' % (self.thinks.encode(), THOUGHT.encode()) if self.thinks else b""


OPENAI = Manner()
MANNERS = {
    "cerebras": Manner(thinks="reasoning", strict=True),
    "deepseek": Manner(
        thinks="reasoning_content",
        due="The `reasoning_content` in the thinking mode must be passed back to the API.",
    ),
    "groq": Manner(strict=True),
    "mistral": Manner(short_ids=True, strict=True),
    "moonshot": Manner(
        thinks="reasoning_content",
        due="thinking is enabled but reasoning_content is missing in assistant tool call message "
        "at index {index}",
    ),
    "vllm": Manner(thinks="reasoning"),
}
