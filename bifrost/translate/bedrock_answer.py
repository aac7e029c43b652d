"""What Bedrock's InvokeModel answers, as Anthropic's: whole, streamed and failed."""

from __future__ import annotations

import re
from typing import Any

import msgspec

from bifrost._fast.pieces import chunk_event, delta_data
from bifrost.translate.event_stream import Frame, FrameReader
from bifrost.translate.raw_json import dropped, edited
from bifrost.translate.translation import SENSELESS

Json = dict[str, Any]

METRICS = "amazon-bedrock-invocationMetrics"
# Bedrock's exceptions, in lower case and without that word, and the statuses they have.
STATUSES = {
    "validation": 400, "servicequotaexceeded": 400, "conflict": 400, "accessdenied": 403,
    "resourcenotfound": 404, "modeltimeout": 408, "modelerror": 424, "modelstreamerror": 424,
    "throttling": 429, "modelnotready": 429, "internalserver": 500, "serviceunavailable": 503,
}  # fmt: skip
_OWN = {408: 504, 424: 500, 503: 529}  # Anthropic's statuses for Bedrock's
_KINDS = {401: "authentication_error", 403: "permission_error", 404: "not_found_error",
          413: "request_too_large", 429: "rate_limit_error", 504: "timeout_error",
          529: "overloaded_error"}  # fmt: skip
_OF_MODEL = frozenset({400, 413, 429, 503, 504, 529})  # what a model's own failure may mean to us
_WRAPPED = re.compile(r"The model returned the following errors?:\s*")
_TOO_LONG = re.compile(
    r"input is too long|too many (?:input )?tokens in|maximum context|input tokens exceed|"
    r"number of (?:input )?tokens exceeds",
    re.I,
)
_SAID_SO = re.compile(r"prompt is too long\b")
# What names the gateway's account there, which is none of the client's business.
_ACCOUNT = re.compile(r"\barn:aws[\w-]*:[^\s\"',)]*[\w*]|(?<!\d)\d{12}(?!\d)", re.ASCII)
_COUNTED = METRICS.encode()
# Neither the first nor the last of an answer, so that they hold no metrics.
_USUAL = frozenset({"content_block_delta", "content_block_start", "content_block_stop"})
_EVENT = re.compile(r"[a-z_]{1,64}")
_LINES = bytes.maketrans(b"\r\n", b"  ")
_encode = msgspec.json.Encoder().encode


class _Chunk(msgspec.Struct):
    event: bytes = msgspec.field(default=b"", name="bytes")  # base64 on the wire


class _Typed(msgspec.Struct):
    type: str | None = None


class _Last(msgspec.Struct):
    metrics: object = msgspec.field(default=None, name=METRICS)


_chunk = msgspec.json.Decoder(_Chunk).decode
_typed = msgspec.json.Decoder(_Typed).decode
_last = msgspec.json.Decoder(_Last).decode
_decode = msgspec.json.Decoder().decode


class BedrockStream:
    """One answer: frames of events that are Anthropic's already. Raises ValueError for others.

    ``metrics`` is what Bedrock counted itself, once the last event told it, under Bedrock's names:
    tokens (those of ``inputTokenCount`` without the cached ones) and milliseconds.
    """

    def __init__(self) -> None:
        self.metrics: Json | None = None
        self._reader = FrameReader()
        self._over = False
        self._usual: object = None  # the headers of a chunk
        self._block = b""  # the same as they came
        self.said: tuple[bytes, bytes] | None = None  # see ``translation.Spoken``

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from Bedrock, cut anywhere; whole events."""
        self.said = None
        if self._reader.boundary and not self._over:
            data = chunk_event(chunk, self._block)
            if data is not None:
                self.said = delta_data(data)
                if self.said is not None:
                    return b"event: content_block_delta\ndata: %b\n\n" % data
                return self._data(data)
        return b"".join([self._event(frame) for frame in self._reader.feed(chunk)])

    def finish(self) -> bytes:
        """Nothing is left to say: the end is an event like others, and a cut stream gets none."""
        self._reader.finish()
        return b""

    def _event(self, frame: Frame) -> bytes:
        if self._over:
            return b""
        headers = frame.headers
        if headers is not self._usual:  # readers keep what they have read once
            if headers.get(":message-type", "event") != "event":
                self._over = True
                error = _encode(broken(frame))
                return b'event: error\ndata: {"type":"error","error":%b}\n\n' % error
            if headers.get(":event-type") != "chunk":
                return b""
            self._usual, self._block = headers, frame.block
        return self._data(_chunk(frame.payload).event)

    def _data(self, data: bytes) -> bytes:
        name = _typed(data).type
        if name is None:  # an event of another dialect
            return b""
        if name in _USUAL:
            return b"event: %b\ndata: %b\n\n" % (name.encode(), data.translate(_LINES))
        if not _EVENT.fullmatch(name):
            raise ValueError(f"{name!r} is no type of an event.")
        if _COUNTED in data:
            told = _last(data).metrics
            self.metrics = told if isinstance(told, dict) else self.metrics
            data = bytes(edited(data, {METRICS: dropped}))
        return b"event: %b\ndata: %b\n\n" % (name.encode(), data.translate(_LINES))


def broken(frame: Frame) -> Json:
    """The error, in Anthropic's words, of a stream that Bedrock ends with an exception."""
    headers = frame.headers
    name = headers.get(":exception-type") or headers.get(":error-code") or ""
    told = _told(frame.payload)
    if not _message(told):
        told = {"message": headers.get(":error-message")}
    return failure(status_of(str(name)), told)[1]


def status_of(name: str) -> int:
    """Bedrock's HTTP status for an exception of its; 500 for one that is not known."""
    return STATUSES.get(name.lower().removesuffix("exception"), 500)


def answer(status: int, body: bytes) -> tuple[int, bytes]:
    """(status, body) for the client: an answer as it is, an error in Anthropic's words."""
    if status < 400:
        return status, body
    status, error = failure(status, _told(body))
    return status, _encode({"type": "error", "error": error})


def failure(status: int, told: Json) -> tuple[int, Json]:
    """(status, error) in Anthropic's words; a prompt that is too long makes an agent compact."""
    text = _message(told)
    if status == 424:  # the model's failure, told in Bedrock's words and in its own
        original, said = told.get("originalStatusCode"), told.get("originalMessage")
        status = original if isinstance(original, int) and original in _OF_MODEL else status
        text = said if isinstance(said, str) and said else text
    text = _ACCOUNT.sub("(hidden)", _WRAPPED.sub("", text)) or "The provider gave no reason."
    own = _SAID_SO.search(text)
    if status == 400 and (own or _TOO_LONG.search(text)):
        text = text[own.start() :] if own else f"prompt is too long: {text}"
    status = _OWN.get(status, status)
    kind = "api_error" if status >= 500 else "invalid_request_error"
    return status, {"type": _KINDS.get(status, kind), "message": text}


def _told(body: bytes) -> Json:
    try:
        told = _decode(body)
    except SENSELESS:
        return {}
    return told if isinstance(told, dict) else {}


def _message(told: Json) -> str:
    said = told.get("message") or told.get("Message")
    return said if isinstance(said, str) else ""
