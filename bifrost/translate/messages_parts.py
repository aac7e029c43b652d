"""Parts of Responses items as blocks of Claude's: text, images, files."""

from __future__ import annotations

import re
from base64 import b64decode
from typing import Any

from bifrost.errors import InvalidRequest
from bifrost.translate.translation import Traits

Json = dict[str, Any]

_DATA = re.compile(r"data:([\w.+-]+/[\w.+-]+)?(?:;[\w.+-]+=[^;,]*)*;base64,")
_LINK = re.compile(r"https?://", re.I)
_IMAGES = {"image/jpeg", "image/png", "image/gif", "image/webp"}
# Where the text of a part is, by its kind. OpenAI would encrypt what one agent tells another; what
# Claude told it is plain.
_TEXTS = {"input_text": "text", "output_text": "text", "text": "text", "refusal": "refusal",
          "encrypted_content": "encrypted_content"}  # fmt: skip
_ENCRYPTED = re.compile(r"gAAAA[\w=-]{60,}")
_UNREADABLE = "(encrypted for another model)"


def text(value: str) -> Json:
    """A block of text."""
    return {"type": "text", "text": value}


def blocks(content: str | list[Json], place: str, traits: Traits) -> list[Json]:
    """The blocks of a content; ``place`` names it in errors. Claude takes no blank text.

    Raises InvalidRequest for a part that Claude cannot be told.
    """
    if isinstance(content, str):
        return [text(content)] if content.strip() else []
    made = []
    for number, part in enumerate(content):
        kind = part["type"]
        if kind in _TEXTS:
            said = part[_TEXTS[kind]]
            if kind == "encrypted_content" and _ENCRYPTED.fullmatch(said):
                said = _UNREADABLE
            if said.strip():
                made.append(text(said))
        elif kind == "input_image":
            made.append(_image(part, f"{place}[{number}]", traits))
        elif kind == "input_file":
            made.append(_file(part, f"{place}[{number}]", traits))
        else:
            raise InvalidRequest(f"{place}[{number}]: this model takes no part of type {kind!r}.")
    return made


def _image(part: Json, place: str, traits: Traits) -> Json:
    if not traits.vision:
        raise InvalidRequest(f"{place}: this model takes no images.")
    url = part.get("image_url")
    if not url:
        raise InvalidRequest(f"{place}: files are kept at OpenAI; send the image as a data URL.")
    if _LINK.match(url):
        return {"type": "image", "source": {"type": "url", "url": url}}
    media, data = _data(url, place)
    if media not in _IMAGES:
        raise InvalidRequest(f"{place}: this model takes JPEG, PNG, GIF and WebP, not {media!r}.")
    return {"type": "image", "source": {"type": "base64", "media_type": media, "data": data}}


def _file(part: Json, place: str, traits: Traits) -> Json:
    name = part.get("filename")
    titled = {"title": name} if name else {}
    if part.get("file_url"):
        source = {"type": "url", "url": part["file_url"]}
        return {"type": "document", "source": source, **titled}
    given = part.get("file_data")
    if not given:
        raise InvalidRequest(f"{place}: files are kept at OpenAI; send file_data or file_url.")
    media, data = _data(given, place) if given.startswith("data:") else (_guess(name), given)
    if media in _IMAGES:
        return _image({"image_url": f"data:{media};base64,{data}"}, place, traits)
    if media == "application/pdf":
        source = {"type": "base64", "media_type": media, "data": data}
    else:
        source = {"type": "text", "media_type": "text/plain", "data": _plain(data, place)}
    return {"type": "document", "source": source, **titled}


def _data(url: str, place: str) -> tuple[str, str]:
    """(media type, base64) of a data URL."""
    found = _DATA.match(url)
    if not found:
        raise InvalidRequest(f"{place}: neither an http(s) URL nor a base64 data URL.")
    return (found[1] or "text/plain").lower(), url[found.end() :]


def _guess(name: str | None) -> str:
    return "application/pdf" if (name or ".pdf").lower().endswith(".pdf") else "text/plain"


def _plain(data: str, place: str) -> str:
    try:
        return b64decode(data, validate=True).decode()
    except ValueError:
        raise InvalidRequest(f"{place}: this model takes PDF and UTF-8 text in base64.") from None
