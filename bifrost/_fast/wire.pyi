"""The wire: reads what governance needs out of raw bytes and leaves the rest untouched.

Request bodies (``scan``, ``rewrite``), header lists (``read_head``), answers
(``top_level``) and event streams (``Tap``). A leaf: imports nothing of bifrost.
"""

from collections.abc import Iterable
from typing import final

class WireError(ValueError):
    """The bytes are not what their protocol asks for; the text is one sentence for the sender."""

@final
class Scan:
    """What a Messages request asks for that governance must know.

    Offsets count bytes of the body; a start and its end are 0 when the field is absent. Fields
    that are absent or null are None, False or empty.

    Attributes
    ----------
    size: bytes of the body.
    model: the name, decoded; ``model_start`` and ``model_end`` enclose its token with the quotes.
    max_tokens: 0 to 2**53; ``max_tokens_start`` and ``max_tokens_end`` enclose its digits.
    fields: which of the governed keys ``fallbacks``, ``fallback_credit_token``,
        ``billing_policy``, ``thread``, ``container``, ``mcp_servers``, ``speed``,
        ``service_tier`` and ``inference_geo`` stand at the top with a value other than null,
        ``[]`` and ``{}``; ``advisor`` when a tool's type starts so or a tool names a model.
    ttl_1h: a key ``ttl`` anywhere is a string other than ``5m``.
    images, documents, remote: how often a key ``type`` anywhere is ``image``; ``document`` or
        ``container_upload``; ``url`` or ``file``. A tool's JSON schema can add to it.
    tool_types: of the tools with a type other than ``custom``; ``tool_max_uses`` runs parallel.
    tool_models: the models that tools name. fallback_models: those that ``fallbacks`` names, or
        the word it is.
    thinking_budget: ``thinking.budget_tokens`` if it is an integer.
    """

    @property
    def size(self) -> int: ...
    @property
    def model(self) -> str | None: ...
    @property
    def model_start(self) -> int: ...
    @property
    def model_end(self) -> int: ...
    @property
    def stream(self) -> bool: ...
    @property
    def max_tokens(self) -> int | None: ...
    @property
    def max_tokens_start(self) -> int: ...
    @property
    def max_tokens_end(self) -> int: ...
    @property
    def service_tier(self) -> str | None: ...
    @property
    def speed(self) -> str | None: ...
    @property
    def inference_geo(self) -> str | None: ...
    @property
    def fields(self) -> frozenset[str]: ...
    @property
    def ttl_1h(self) -> bool: ...
    @property
    def images(self) -> int: ...
    @property
    def documents(self) -> int: ...
    @property
    def remote(self) -> int: ...
    @property
    def tool_types(self) -> tuple[str, ...]: ...
    @property
    def tool_models(self) -> tuple[str, ...]: ...
    @property
    def tool_max_uses(self) -> tuple[int | None, ...]: ...
    @property
    def fallback_models(self) -> tuple[str, ...]: ...
    @property
    def thinking_budget(self) -> int | None: ...

def scan(body: bytes) -> Scan:
    """Checks a Messages request body and picks out what governance must know, in one pass.

    The body must be one JSON object in strict RFC 8259 form and UTF-8, at most 512 levels deep.
    Raises ``WireError`` naming the byte or the field if it is not, if a field that is read here
    has the wrong type, or if it is given twice.
    """

def rewrite(body: bytes, scan: Scan, model: str | None, max_tokens: int | None) -> bytes:
    """The body with its model and its max_tokens replaced where given, no other byte changed.

    ``scan`` must come from this very body. Raises ``WireError`` when the body has no such field,
    ``ValueError`` when the scan belongs to another body or ``max_tokens`` is negative.
    """

def top_level(body: bytes, name: str) -> bytes | None:
    """The raw value of a key of a JSON object, the last one if it is given twice.

    None if there is no such key or the body is not one whole JSON object; the bytes inside
    strings are not checked, so that odd text cannot hide a usage.
    """

@final
class Head:
    """What a request's headers say to the gateway, and the lines that go on.

    Of a header given twice the first counts, but betas and encodings are joined.

    Attributes
    ----------
    credential: the virtual key: ``x-bf-vk``; else a bearer token, ``x-api-key``,
        ``x-goog-api-key`` or ``api-key`` that starts with ``sk-bf-``, in this order.
    foreign_credential: there were credentials but no virtual key.
    content_encoding: in lower case, empty for none and for identity.
    request_id: ``x-request-id`` if it is 1 to 128 of ``A-Z a-z 0-9 . _ : -``.
    session: ``x-bf-session-id``, else ``x-claude-code-session-id``.
    forward: the lines for the provider, ``name: value`` and CR LF each, names in lower case;
        without credentials, hop-by-hop headers and what belongs to this hop or to the gateway.
    """

    @property
    def credential(self) -> bytes | None: ...
    @property
    def foreign_credential(self) -> bool: ...
    @property
    def content_length(self) -> int | None: ...
    @property
    def content_encoding(self) -> bytes: ...
    @property
    def request_id(self) -> bytes | None: ...
    @property
    def session(self) -> bytes | None: ...
    @property
    def anthropic_version(self) -> bytes | None: ...
    @property
    def anthropic_beta(self) -> bytes | None: ...
    @property
    def user_agent(self) -> bytes | None: ...
    @property
    def forward(self) -> bytes: ...

def read_head(headers: Iterable[tuple[bytes, bytes]]) -> Head:
    """Reads ASGI request headers and makes the header lines that may go to a provider.

    Raises ``WireError`` when a name is no token, a value holds CR, LF or NUL, the content length
    is not one number, or all lines together exceed 1 MiB.
    """

@final
class Tap:
    """Reads an Anthropic event stream as it passes, chunk by chunk; takes any bytes, never raises.

    Keeps at most 1 MiB of a line and of an event; a longer one is not read and sets ``overflow``.
    What an event is, its JSON's own ``type`` decides; bytes inside strings are not checked.

    Attributes
    ----------
    start: data of the first ``message_start``. error: data of the first ``error``.
    delta: data of the last ``message_delta`` that has a ``usage`` object.
    stopped: ``message_stop`` was seen.
    output_bytes: bytes of text, tool input and thinking that deltas brought; an escape is one.
    events: events with data, known or not. received: bytes.
    boundary: the stream is at its beginning or right after an event's end.
    """

    def __init__(self) -> None: ...
    @property
    def start(self) -> bytes | None: ...
    @property
    def delta(self) -> bytes | None: ...
    @property
    def error(self) -> bytes | None: ...
    @property
    def stopped(self) -> bool: ...
    @property
    def overflow(self) -> bool: ...
    @property
    def boundary(self) -> bool: ...
    @property
    def output_bytes(self) -> int: ...
    @property
    def events(self) -> int: ...
    @property
    def received(self) -> int: ...
    def feed(self, chunk: bytes) -> None:
        """Reads the next bytes of the stream, cut anywhere."""

    def finish(self) -> None:
        """Takes what is left at the end of the stream as if it were complete."""
