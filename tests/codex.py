"""Items of Responses clients, Codex's above all, and what becomes of them for Claude."""

from __future__ import annotations

import json
from typing import Any

from bifrost.translate.responses_anthropic import ResponsesAnthropic
from bifrost.translate.translation import Traits
from tests.messages_rules import checked

THINKS = Traits(adaptive=True, max_output=128_000)
PIXEL = "data:image/png;base64,iVBORw0KGgo="
THOUGHT = b'{"type": "thinking", "signature": "c2ln", "thinking": "h\\u00e9 \\/ hm"}'
MARK = {"type": "ephemeral"}
MOST = {"effort": "max"}


def translated(
    *items: Any, traits: Traits | None = None, max_tokens: int | None = None, **asked: Any
) -> Any:
    """The Messages request for a Responses request, checked."""
    whole = {"model": "gpt-x", "input": list(items) or "Hi", **asked}
    made = ResponsesAnthropic(
        json.dumps(whole).encode(), "claude-x", max_tokens=max_tokens, traits=traits or Traits()
    )
    wanted = json.loads(made.body)
    checked(wanted)
    return wanted


def said(role: str, *parts: Any) -> dict[str, Any]:
    kind = "output_text" if role == "assistant" else "input_text"
    content = [{"type": kind, "text": one} if isinstance(one, str) else one for one in parts]
    return {"type": "message", "role": role, "content": content}


def call(name: str, number: str = "1", **more: Any) -> dict[str, Any]:
    return {"type": "function_call", "call_id": f"call_{number}", "name": name,
            "arguments": '{"x": 1.0}', **more}  # fmt: skip


def output(result: Any, number: str = "1") -> dict[str, Any]:
    return {"type": "function_call_output", "call_id": f"call_{number}", "output": result}


def free(name: str, text: str, number: str = "1", **more: Any) -> dict[str, Any]:
    return {"type": "custom_tool_call", "call_id": f"call_{number}", "name": name,
            "input": text, **more}  # fmt: skip


def thought(sealed: str | None) -> dict[str, Any]:
    return {"type": "reasoning", "id": "rs_1", "summary": [], "encrypted_content": sealed}


def function(name: str, **more: Any) -> dict[str, Any]:
    return {"type": "function", "name": name, "parameters": {"type": "object"}, **more}


def texts(blocks: list[Any]) -> list[str]:
    return [block["text"] for block in blocks]
