"""Clients that speak Bedrock's InvokeModel on hosts that speak Anthropic Messages.

Facts: the model of ``bedrock-runtime`` in botocore 1.44, anthropic 2.12 (``lib/bedrock``) and
Claude Code 2.1.330 in its Bedrock mode (read 2026-11).
"""

from __future__ import annotations

import re
from base64 import b64decode
from binascii import b2a_base64
from typing import NamedTuple
from urllib.parse import unquote

import msgspec

from bifrost._fast.pieces import delta
from bifrost.errors import InvalidRequest
from bifrost.translate.event_stream import encode, framed, headers_of
from bifrost.translate.raw_json import Raw, members, object_of
from bifrost.translate.translation import SENSELESS

MOST_EVENT = 16 << 20  # bytes: its base64 still fits into a frame
CONTENT_TYPE = "application/vnd.amazon.eventstream"
_PATH = re.compile(r"/model/([^?]+?)/(invoke|invoke-with-response-stream|count-tokens)")
_ARN = re.compile(r"arn:aws[\w-]*:bedrock:[^/]*:(?:foundation-model|inference-profile)/")
_NAME = re.compile(r"(?:[a-z0-9-]+\.)?anthropic\.(claude-.+?)(?:-v\d+(?::\d+)?(?::\d+k)?)?")
_DATE = re.compile(r"-20\d{6}$")
# Newer ones have one name everywhere.
_VERSIONS = {"bedrock-2023-05-31": "2023-06-01", "vertex-2023-10-16": "2023-06-01"}
_TOKEN = re.compile(r"[A-Za-z0-9._-]{1,128}")  # safe in a header
_OWN = frozenset({"model", "stream", "anthropic_version", "anthropic_beta"})
# What a token count may say of a request.
_COUNTED = frozenset({"model", "messages", "system", "tools", "tool_choice", "thinking",
                      "output_config", "cache_control", "context_management"})  # fmt: skip
_CHUNK = headers_of(
    {":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"}
)
# Bedrock's exceptions by status, for ``x-amzn-errortype``.
_EXCEPTIONS = {
    401: "AccessDeniedException", 402: "ServiceQuotaExceededException",
    403: "AccessDeniedException", 404: "ResourceNotFoundException", 408: "ModelTimeoutException",
    424: "ModelErrorException", 429: "ThrottlingException", 503: "ServiceUnavailableException",
    504: "ModelTimeoutException", 529: "ServiceUnavailableException",
}  # fmt: skip
# And inside a stream, by the type of Anthropic's error; others are the request's fault.
_BROKEN = {
    "api_error": "internalServerException", "overloaded_error": "serviceUnavailableException",
    "rate_limit_error": "throttlingException", "timeout_error": "modelTimeoutException",
}  # fmt: skip
_DATA = len(b"event: content_block_delta\ndata: ")
_encode = msgspec.json.Encoder().encode
_betas = msgspec.json.Decoder(list[str] | None).decode
_string = msgspec.json.Decoder(str).decode


class Asked(NamedTuple):
    """A Messages request: its body, and what goes into the headers ``anthropic-beta``, joined by
    commas, and ``anthropic-version``."""

    body: bytes
    betas: tuple[str, ...]
    version: str


class _Invoked(msgspec.Struct):
    body: str


class _Input(msgspec.Struct):
    invoked: _Invoked = msgspec.field(name="invokeModel")


class _Count(msgspec.Struct):
    input: _Input


class _Counted(msgspec.Struct):
    tokens: int = msgspec.field(name="input_tokens")


class _Error(msgspec.Struct):
    message: str | None = None
    type: str | None = None


class _Event(msgspec.Struct):
    type: str
    error: _Error | None = None


class _Failure(msgspec.Struct):
    error: _Error | None = None


_event = msgspec.json.Decoder(_Event).decode
_failure = msgspec.json.Decoder(_Failure).decode
_count = msgspec.json.Decoder(_Count).decode
_counted = msgspec.json.Decoder(_Counted).decode


def address(path: str) -> tuple[str, str] | None:
    """(model, operation) of a path as it was sent; None for paths that are not served.

    Operations: ``invoke``, ``invoke-with-response-stream`` and ``count-tokens``.
    """
    found = _PATH.fullmatch(path)
    return (unquote(found[1]), found[2]) if found else None


def names(model: str) -> list[str]:
    """An id of Bedrock's and the names that its model has elsewhere, the most exact first.

    The region's prefix, the maker's name and the version behind it go, then the date. An ARN is
    the id at its end, unless that of an application's profile, which does not tell the model.
    """
    found = _NAME.fullmatch(_ARN.sub("", model, count=1))
    return list(dict.fromkeys([model, *((found[1], _DATE.sub("", found[1])) if found else ())]))


def request(body: bytes, model: str, *, stream: bool, of: str = "InvokeModel") -> Asked:
    """The Messages request for the body of an InvokeModel call and what its path says.

    ``of``: which call it is, in words; Vertex AI's has the same body.

    Raises InvalidRequest for what is no such body.
    """
    try:
        given: dict[str, Raw] = dict(members(body))
        named = _betas(given.get("anthropic_beta", b"null")) or ()
        betas = tuple(name.strip() for name in named)
        version = _string(given.get("anthropic_version", b'"bedrock-2023-05-31"'))
    except SENSELESS as error:
        raise InvalidRequest(f"The request body is not one for {of}: {error!r}") from None
    for token in (version, *betas):
        if not _TOKEN.fullmatch(token):
            raise InvalidRequest(f"{token[:80]!r} is no name of a version or a beta.")
    kept = {key: value for key, value in given.items() if key not in _OWN}
    wanted: dict[str, Raw] = {"model": _encode(model), **kept}
    if stream:
        wanted["stream"] = b"true"
    return Asked(object_of(wanted), betas, _VERSIONS.get(version, version))


def counting(body: bytes, model: str) -> Asked:
    """The Messages token count for the body of a CountTokens call.

    Raises InvalidRequest for what is no such body.
    """
    try:
        invoked = b64decode(_count(body).input.invoked.body, validate=True)
    except SENSELESS as error:
        raise InvalidRequest(
            f"The request body is not one for CountTokens with input.invokeModel: {error!r}"
        ) from None
    asked = request(invoked, model, stream=False)
    kept = {key: value for key, value in members(asked.body).items() if key in _COUNTED}
    return asked._replace(body=object_of(kept))


def counted(body: bytes) -> bytes:
    """The answer of CountTokens for that of a Messages token count; raises what is SENSELESS."""
    return _encode({"inputTokens": _counted(body).tokens})


def exception(status: int) -> str:
    """The name for ``x-amzn-errortype`` of an error with that status."""
    unknown = "InternalServerException" if status >= 500 else "ValidationException"
    return _EXCEPTIONS.get(status, unknown)


def answer(status: int, body: bytes) -> tuple[bytes, str | None]:
    """(body, the name for ``x-amzn-errortype`` or None) of a whole Messages answer.

    The status stays; an answer passes as it is, an error is said as Bedrock does.
    """
    if status < 400:
        return body, None
    try:
        error = _failure(body).error
    except SENSELESS:
        error = None
    said = error.message if error and error.message else "The provider gave no reason."
    return _encode({"message": said}), exception(status)


class AnthropicStream:
    """One answer: the events of Anthropic's as frames. Raises ValueError where they make none."""

    def __init__(self) -> None:
        self._rest = bytearray()
        self._data: list[bytes] = []
        self._size = 0
        self._over = False

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes of the event stream, cut anywhere; whole frames."""
        between = not (self._rest or self._data or self._over)
        if between and len(chunk) <= MOST_EVENT and delta(chunk) is not None:
            return _framed(chunk[_DATA:-2])
        self._rest += chunk
        if b"\n" not in chunk:
            self._check(len(self._rest))
            return b""
        lines = bytes(self._rest).split(b"\n")
        self._rest = bytearray(lines.pop())
        return b"".join([self._line(line.removesuffix(b"\r")) for line in lines])

    def finish(self) -> bytes:
        """Nothing is left to say: the end is an event like others, and a cut stream gets none."""
        return b""

    def _check(self, more: int) -> None:
        if self._size + more > MOST_EVENT:
            raise ValueError(f"An event is longer than {MOST_EVENT} bytes.")

    def _line(self, line: bytes) -> bytes:
        """A line of an event; the frame, if it is the empty one that ends it."""
        if line.startswith(b"data:"):
            self._data.append(line[5:].removeprefix(b" "))
            self._size += len(line)
            self._check(0)
        if line or not self._data:
            return b""
        data = b"\n".join(self._data)
        self._data, self._size = [], 0
        return b"" if self._over else self._frame(data)

    def _frame(self, data: bytes) -> bytes:
        told = _event(data)
        if told.type != "error":
            return _framed(data)
        self._over = True
        error = told.error or _Error()
        headers = {
            ":exception-type": _BROKEN.get(error.type or "api_error", "validationException"),
            ":content-type": "application/json",
            ":message-type": "exception",
        }
        return encode(headers, _encode({"message": error.message or "The stream broke."}))


def _framed(data: bytes) -> bytes:
    return framed(_CHUNK, b'{"bytes":"%b"}' % b2a_base64(data, newline=False))
