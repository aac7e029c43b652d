"""What governance must know of a request for embeddings, put into the words that it reads."""

from __future__ import annotations

from typing import Any

from bifrost.doors.chat_ask import blocked
from bifrost.errors import InvalidRequest

Json = dict[str, Any]
_FIELDS = frozenset({"model", "input", "encoding_format", "dimensions", "user", "stream"})
MOST_INPUTS = 2_048  # of one request (openai 3.57, ``embedding_create_params``)


def ask(asked: Json) -> Json:
    """The fields of a Messages request that bound what this one can cost: its input is its body.

    Raises InvalidRequest for an input that is none, FieldBlocked for what could add to it.
    """
    for field in asked:
        if field not in _FIELDS:
            raise blocked(field, "it could have a host add to what is paid for")
    given = asked.get("input")
    inputs = given if isinstance(given, list) else [given]
    if not inputs or not (_texts(inputs) or _tokens(inputs) or all(map(_is_tokens, inputs))):
        raise InvalidRequest(
            "input: Give a text, a list of texts, a list of token ids or a list of such lists; "
            "none of them may be empty."
        )
    if len(inputs) > MOST_INPUTS and not _tokens(inputs):
        raise InvalidRequest(f"input: At most {MOST_INPUTS:,} inputs fit into one request.")
    if asked.get("encoding_format") not in (None, "float", "base64"):
        raise InvalidRequest("encoding_format: Give 'float' or 'base64'.")
    if asked.get("stream"):
        raise InvalidRequest("stream: Embeddings come whole; leave it out.")
    return {"model": asked.get("model"), "messages": []}


def _texts(inputs: list[Any]) -> bool:
    return all(isinstance(one, str) and one for one in inputs)


def _tokens(inputs: list[Any]) -> bool:
    return all(type(one) is int and one >= 0 for one in inputs)


def _is_tokens(one: Any) -> bool:
    return isinstance(one, list) and bool(one) and _tokens(one)
