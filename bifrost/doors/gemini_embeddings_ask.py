"""What governance must know of a Gemini request for embeddings, in the words that it reads."""

from __future__ import annotations

from typing import Any

from bifrost.doors.chat_ask import blocked
from bifrost.errors import InvalidRequest

Json = dict[str, Any]
_ONE = frozenset({"model", "content", "taskType", "title", "outputDimensionality"})
_EMPTY = "content: Give at least one part with a text that is not empty."


def ask(asked: Json) -> Json:
    """The fields of a Messages request that bound what this one can cost: its input is its body.

    Raises InvalidRequest for an input that is none, FieldBlocked for what could add to it. The
    names are as ``Fields`` spells them (google-genai 3.6, ``models.embed_content``).
    """
    requests = asked.get("requests")
    if requests is None:
        _check(asked)
    else:
        for field in asked:
            if field not in ("requests", "model"):
                raise blocked(field, "it could have a host add to what is paid for")
        if not requests:
            raise InvalidRequest("requests: Give at least one.")
        for one in requests:
            _check(one)
    return {"model": asked.get("model"), "messages": []}


def _check(one: Json) -> None:
    for field in one:
        if field not in _ONE:
            raise blocked(field, "it could have a host add to what is paid for")
    parts = (one.get("content") or {}).get("parts") or ()
    for part in parts:
        for kind, given in part.items():
            if kind != "text" and given is not None:
                raise blocked(kind, "only text has a price")
    texts = [part.get("text") for part in parts]
    if not texts or not all(isinstance(text, str) and text for text in texts):
        raise InvalidRequest(_EMPTY)
