"""What an answer says: measured prose, or the tool script (one shell call, then its result).

The script needs no memory: it reads from each request whether a shell tool is offered and
whether its result is already there, so any number of conversations may share one server.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import lru_cache

import msgspec

FINAL = "MOCK_FINAL_OK"
RESULT_SHOWN = 200
_PROSE = "Every bridge the mock provider builds is made of plain words and leads back home. "
_PROSE_LIMIT = 1 << 20
_CHARS_PER_TOKEN = 4

_SHELLS = frozenset(
    "bash shell shell_command exec exec_command run_shell_command run_command execute_command "
    "run_terminal_cmd run_in_terminal terminal local_shell container.exec".split()
)
_COMMAND_KEYS = ("command", "cmd", "script", "code")


class Text(msgspec.Struct, frozen=True, gc=False):
    """A text answer. ``whole`` and ``pieces`` are JSON strings with their quotes, ``sizes`` the
    UTF-8 bytes of each piece. ``limited`` tells that the request's output limit ended it."""

    whole: bytes
    pieces: tuple[bytes, ...]
    sizes: tuple[int, ...]
    limited: bool = False


class ToolCall(msgspec.Struct, frozen=True):
    """A call of the shell tool ``name``. ``arguments`` is a JSON object, or the bare input text
    of a free-form tool (``free``); ``pieces`` are parts of it."""

    name: str
    arguments: str
    pieces: tuple[str, ...]
    free: bool = False


class Offer(msgspec.Struct, frozen=True):
    """One tool of a request: its name, its JSON Schema, whether it takes free text."""

    name: str
    schema: object = None
    free: bool = False


class Script(msgspec.Struct, frozen=True):
    """The tool script with its shell command."""

    command: str

    def play(
        self, offers: Iterable[Offer], results: list[str], fresh: bool, chunks: int
    ) -> Text | ToolCall | None:
        """The answer the script gives, None for ordinary prose.

        ``results`` are the texts of all tool results so far; ``fresh`` tells that the last of
        them is in the turn to be answered.
        """
        if results:
            return said(f"{FINAL} <<<{results[-1][:RESULT_SHOWN]}>>>", chunks) if fresh else None
        for offer in offers:
            if offer.name.lower().rpartition("__")[2] in _SHELLS:
                return self._call(offer, chunks)
        return None

    def _call(self, offer: Offer, chunks: int) -> ToolCall:
        if offer.free:
            source = self._source()
            return ToolCall(offer.name, source, _cut(source, chunks), free=True)
        text = msgspec.json.encode(self._arguments(offer.schema)).decode()
        return ToolCall(offer.name, text, _cut(text, chunks))

    def _source(self) -> str:
        """The command in the program that Codex's free-form tool runs."""
        command = msgspec.json.encode({"cmd": self.command}).decode()
        return f"const run = await tools.exec_command({command});\ntext(run.output);\n"

    def _arguments(self, schema: object) -> dict[str, object]:
        properties = schema.get("properties") if isinstance(schema, dict) else None
        known = properties if isinstance(properties, dict) else {}
        if known.keys() == {"input"}:  # a free-form tool in a dialect that has none
            return {"input": self._source()}
        key = next((k for k in _COMMAND_KEYS if k in known), "command")
        value: object = self.command
        if isinstance(known.get(key), dict) and known[key].get("type") in ("array", "ARRAY"):
            value = ["bash", "-lc", self.command]
        arguments = {key: value}
        if "description" in known:
            arguments["description"] = "Say hello"
        return arguments


def said(text: str, chunks: int) -> Text:
    """A text answer of at most that many pieces."""
    pieces = _cut(text, chunks)
    return Text(
        msgspec.json.encode(text),
        tuple(msgspec.json.encode(piece) for piece in pieces),
        tuple(len(piece.encode()) for piece in pieces),
    )


@lru_cache(maxsize=1024)
def prose(tokens: int, chunks: int, limited: bool) -> Text:
    """Plain English of about 4 bytes per token (at most 1 MiB) in at most that many pieces."""
    length = min(tokens * _CHARS_PER_TOKEN, _PROSE_LIMIT)
    text = (_PROSE * (length // len(_PROSE) + 1))[:length]
    return msgspec.structs.replace(said(text, chunks), limited=limited)


def spoken(value: object) -> str:
    """The text inside a tool result of any dialect: a string, parts, or an object with text."""
    if isinstance(value, str):
        return value
    if isinstance(value, list):
        return "\n".join(spoken(part) for part in value)
    if isinstance(value, dict):
        for key in ("text", "output", "content", "result"):
            if key in value:
                return spoken(value[key])
    return msgspec.json.encode(value).decode()


def objects(value: object) -> list[dict[str, object]]:
    """The JSON objects in a list; anything else is left out."""
    return [item for item in value if isinstance(item, dict)] if isinstance(value, list) else []


def _cut(text: str, chunks: int) -> tuple[str, ...]:
    step = -(-len(text) // chunks) or 1
    return tuple(text[i : i + step] for i in range(0, len(text), step))


def sample(schema: object) -> object:
    """The smallest value that fits a JSON Schema or a Gemini Schema well enough for clients."""
    if not isinstance(schema, dict):
        return {}
    if schema.get("enum"):
        return schema["enum"][0]
    kind = str(schema.get("type", "object")).lower()
    if kind == "object":
        fields = schema.get("properties")
        known = fields.items() if isinstance(fields, dict) else ()
        return {name: sample(field) for name, field in known}
    simple: dict[str, object] = {"array": [], "boolean": False, "integer": 1, "number": 1}
    return simple.get(kind, "mock")
