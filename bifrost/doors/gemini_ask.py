"""What governance must know of a Gemini request, put into the words that it reads."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from bifrost.doors.chat_ask import blocked

Json = dict[str, Any]

_NO_PRICE = "only text has a price"
# Each could cost what no reservation covers: another model, sound, speech, pictures.
_UNBOUNDED = {
    "routingConfig": "the model must be the one that is asked for",
    "modelSelectionConfig": "the model must be the one that is asked for",
    "speechConfig": _NO_PRICE,
    "imageConfig": _NO_PRICE,
    "audioTranscriptionConfig": "sound has no price",
    "translationConfig": "sound has no price",
}
_TIERS = ("flex", "priority")
_USUAL = ("", "standard", "unspecified", "service_tier_unspecified")


def ask(asked: Json) -> Json:
    """The fields of a Messages request that bound what this Gemini request can cost.

    Raises FieldBlocked for what cannot be bounded; what comes of a body that is no Gemini request
    is in ``SENSELESS``. The names are as ``Fields`` spells them.
    """
    if asked.get("cachedContent"):
        raise blocked("cachedContent", "what it holds cannot be bounded")
    config = asked.get("generationConfig") or {}
    _check(config)
    for tool in asked.get("tools") or ():
        for kind, given in tool.items():
            if kind != "functionDeclarations" and given is not None:
                raise blocked(f"tools: {kind}", "Google runs it, at a cost that cannot be bounded")
    found: Json = {"model": asked.get("model"), "stream": asked.get("stream")}
    if config.get("maxOutputTokens") is not None:
        found["max_tokens"] = config["maxOutputTokens"]
    tier = str(asked.get("serviceTier") or "").lower()
    if tier in _TIERS:
        found["service_tier"] = tier
    elif tier not in _USUAL:
        raise blocked("serviceTier", "its prices are not known")
    spoken = [asked.get("systemInstruction") or {}, *asked["contents"]]
    content = [
        block for one in spoken for part in one.get("parts") or () for block in _blocks(part)
    ]
    if asked.get("continuationToken"):  # what it goes on with is not in the body
        content.append({"type": "file"})
    found["messages"] = [{"role": "user", "content": content}]
    return found


def _check(config: Json) -> None:
    for field, why in _UNBOUNDED.items():
        if config.get(field):
            raise blocked(f"generationConfig.{field}", why)
    if (config.get("candidateCount") or 1) != 1:
        raise blocked("generationConfig.candidateCount", "one answer at a time can be bounded")
    for form in config.get("responseFormat") or ():
        for kind, given in form.items():
            if kind != "text" and given is not None:
                raise blocked(f"generationConfig.responseFormat: {kind}", _NO_PRICE)
    if {str(one).upper() for one in config.get("responseModalities") or ()} - {"TEXT"}:
        raise blocked("generationConfig.responseModalities", _NO_PRICE)


def _blocks(part: Json) -> Iterator[Json]:
    """What can be larger than its bytes in the body."""
    for inner in (part.get("functionResponse") or {}).get("parts") or ():
        yield from _blocks(inner)
    data, file = part.get("inlineData"), part.get("fileData")
    media = str((data or file or {}).get("mimeType") or "").lower()
    if media.startswith(("audio/", "video/")):
        raise blocked(media.partition("/")[0], "sound and films have no price")
    if file:  # it lies elsewhere, and can be of any size
        yield {"type": "image", "source": {"type": "url"}}
    elif data and media.startswith("image/"):
        yield {"type": "image"}
    elif data and not media.startswith("text/"):
        yield {"type": "document"}
