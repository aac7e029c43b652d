"""What governance must know of a Chat request, put into the words that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bifrost.errors import FieldBlocked

Json = dict[str, Any]

# Each could cost what no reservation covers: rates of sound, searches, predictions that are paid.
_UNBOUNDED = ("audio", "prediction", "web_search_options")
LIMITS = ("max_completion_tokens", "max_tokens")


def ask(asked: Json) -> Json:
    """The fields of a Messages request that bound what this Chat request can cost.

    Raises FieldBlocked for what cannot be bounded; what comes of a body that is no Chat request is
    in ``SENSELESS``.
    """
    for field in _UNBOUNDED:
        if asked.get(field):
            raise blocked(field)
    if (asked.get("n") or 1) != 1:
        raise blocked("n", "one answer at a time can be bounded")
    if set(asked.get("modalities") or ()) - {"text"}:
        raise blocked("modalities", "only text has a price")
    found: Json = {"model": asked.get("model"), "stream": asked.get("stream")}
    limits = [asked[name] for name in LIMITS if asked.get(name) is not None]
    if limits:
        found["max_tokens"] = max(limits)
    tier = asked.get("service_tier")
    if tier not in (None, "auto", "default"):
        found["service_tier"] = tier
    content = [block for message in asked["messages"] for block in _blocks(message)]
    found["messages"] = [{"role": "user", "content": content}]
    return found


def blocked(field: str, why: str = "what it costs cannot be bounded") -> FieldBlocked:
    """The refusal of a field that could spend beyond a budget."""
    return FieldBlocked(
        f"The request field {field!r} is not forwarded by this gateway ({why}); "
        "remove it from the request."
    )


def image(url: object) -> Json:
    """An image as governance knows it; one that lies elsewhere can be of any size."""
    if isinstance(url, str) and url.startswith("data:"):
        return {"type": "image"}
    return {"type": "image", "source": {"type": "url"}}


def _blocks(message: Json) -> Iterator[Json]:
    content = message.get("content")
    for part in content if isinstance(content, list) else ():
        kind = part.get("type")
        if kind == "image_url":
            yield image(part["image_url"]["url"])
        elif kind == "file":
            yield {"type": "document"}
        elif kind == "input_audio":
            raise blocked("input_audio", "sound has no price")
