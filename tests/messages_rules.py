"""What Anthropic's Messages API refuses with a 400, as far as a translated request can err."""

from __future__ import annotations

import re
from typing import Any

NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
KEYS = {
    "model", "max_tokens", "messages", "system", "tools", "tool_choice", "thinking",
    "output_config", "temperature", "top_p", "metadata", "stream",
}  # fmt: skip
BLOCKS = {
    "user": {"text", "image", "document", "tool_result"},
    "assistant": {"text", "thinking", "redacted_thinking", "tool_use"},
}


def checked(wanted: dict[str, Any]) -> None:
    """Asserts that the API would take this request."""
    assert wanted.keys() <= KEYS
    assert isinstance(wanted["model"], str) and wanted["max_tokens"] >= 1
    for block in wanted.get("system", []):
        assert block["type"] == "text" and block["text"].strip()
    names = _tools(wanted)
    _turns(wanted["messages"], bool(names))
    marks = str(wanted).count("cache_control")
    assert 1 <= marks <= 3
    thinks = "thinking" in wanted
    assert not (thinks and wanted.keys() & {"temperature", "top_p"})
    assert not ("temperature" in wanted and "top_p" in wanted)
    assert 0 <= wanted.get("temperature", 0) <= 1
    config = wanted.get("output_config", {})
    assert config.get("effort", "low") in ("low", "medium", "high", "xhigh", "max")
    assert not (thinks and wanted.get("tool_choice", {}).get("type") in ("any", "tool"))


def _tools(wanted: dict[str, Any]) -> set[str]:
    tools = wanted.get("tools", [])
    names = {tool["name"] for tool in tools}
    assert len(names) == len(tools)
    for tool in tools:
        assert NAME.fullmatch(tool["name"])
        assert tool["input_schema"]["type"] == "object"
        assert tool.keys() <= {"name", "description", "input_schema", "cache_control"}
    choice = wanted.get("tool_choice")
    if choice is not None:
        assert names
        assert choice["type"] in ("auto", "any", "none", "tool")
        assert choice["type"] != "tool" or choice["name"] in names
        assert choice["type"] != "none" or choice.keys() == {"type"}
    return names


def _turns(turns: list[dict[str, Any]], offered: bool) -> None:
    ids: list[str] = []
    due: set[str] = set()
    for number, turn in enumerate(turns):
        role = "assistant" if number % 2 else "user"
        assert turn["role"] == role and turn["content"]
        kinds = [block["type"] for block in turn["content"]]
        assert set(kinds) <= BLOCKS[role]
        for block in turn["content"]:
            _block(block)
        if role == "user":
            results = [block for block in turn["content"] if block["type"] == "tool_result"]
            assert kinds[: len(results)] == ["tool_result"] * len(results), "results come first"
            assert len(results) == len(due)
            assert {block["tool_use_id"] for block in results} == due, "every call is answered"
        else:
            assert "thinking" not in kinds[-1], "a turn does not end with thinking"
            calls = [block["id"] for block in turn["content"] if block["type"] == "tool_use"]
            ids += calls
            due = set(calls)
            assert offered or not calls, "calls without tools"
    assert len(turns) % 2 == 1, "the user has the last word"
    assert len(ids) == len(set(ids)), "ids are unique"


def _block(block: dict[str, Any]) -> None:
    kind, source = block["type"], block.get("source", {})
    assert "cache_control" not in block or "thinking" not in kind
    if kind == "text":
        assert block["text"].strip()
    elif kind == "tool_use":
        assert re.fullmatch(r"[a-zA-Z0-9_-]+", block["id"]) and NAME.fullmatch(block["name"])
        assert isinstance(block["input"], dict)
    elif kind == "tool_result":
        inner = block.get("content", "(nothing)")
        assert inner
        for one in inner if isinstance(inner, list) else ():
            assert one["type"] in ("text", "image", "document")
            _block(one)
    elif kind == "image":
        assert source["type"] == "url" or source["media_type"].startswith("image/")
    elif kind == "document":
        assert source["type"] in ("url", "base64", "text")
    elif kind == "thinking":
        assert block["signature"]
