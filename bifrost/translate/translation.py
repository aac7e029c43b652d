"""What every translator between two dialects offers; each ``<client>_<backend>.py`` has one.

A translation belongs to one request. It turns the client's body into the backend's, and the
backend's answer, whole or streamed, into the client's dialect. Pure: bytes in, bytes out.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import msgspec

# What comes of reading a document that is not what its dialect says.
SENSELESS = (
    msgspec.MsgspecError, ValueError, TypeError, KeyError, IndexError, AttributeError,
    RecursionError,
)  # fmt: skip


class Traits(msgspec.Struct, frozen=True, kw_only=True):
    """What a target's model can do and how its host deviates from the dialect's own service.

    ``max_output`` is the model's most output tokens (None: not known). ``reasons``: it can be told
    how hard to think, ``extra_high``: beyond high, ``adaptive``: by Claude's adaptive thinking.
    ``forced_tools``: it can be made to call one; ``prefill``: to go on with what it is given to
    have said. ``legacy_limit``: it wants
    ``max_tokens`` where OpenAI wants ``max_completion_tokens``. ``splits_reasoning``: its counts of
    reasoning tokens come on top of ``completion_tokens``. ``reasoning_field``: where its host takes
    the reasoning of earlier turns back, ``reasoning_due``: and must have some;
    ``refuses_reasoning``: it has no such field and refuses any. ``short_call_ids``: ids of calls
    are nine letters or digits. ``embeds``: it makes embeddings, and nothing else (None: not known).
    ``caches``: it caches prompts where they are marked, ``structured``: it can be held to a JSON
    schema.
    """

    max_output: int | None = None
    reasons: bool = False
    extra_high: bool = False
    adaptive: bool = False
    forced_tools: bool = True
    prefill: bool = True
    vision: bool = True
    sampling: bool = True
    legacy_limit: bool = False
    splits_reasoning: bool = False
    reasoning_field: str | None = None
    reasoning_due: bool = False
    refuses_reasoning: bool = False
    short_call_ids: bool = False
    embeds: bool | None = None
    caches: bool = False
    structured: bool = False


class Stream(Protocol):
    """An answer's event stream under way."""

    def feed(self, chunk: bytes) -> bytes:
        """The next bytes from the backend, cut anywhere; whole events of the client's dialect.

        Raises what is in SENSELESS where they make none.
        """

    def finish(self) -> bytes:
        """The backend ended its stream: what is left to say. A stream that was cut short gets no
        end in the client's dialect either, so that the cut stays visible."""


@runtime_checkable
class Spoken(Stream, Protocol):
    """A stream that becomes Anthropic's. ``said``: what the last ``feed`` made, if that is one
    delta of a block and no more: (b"text", b"thinking" or b"partial_json", what it says in JSON).
    """

    said: tuple[bytes, bytes] | None


@runtime_checkable
class Retold(Stream, Protocol):
    """A stream of Anthropic's that becomes another dialect's."""

    def say(self, name: bytes, text: bytes) -> bytes:
        """What ``feed`` makes of one delta of the open block, as ``Spoken.said`` has it: so that
        nobody needs to read again what was just written."""


class Translation(Protocol):
    """One request in the backend's dialect, and the way back. Building one raises InvalidRequest
    when the request holds what the backend cannot be told and no documented rule drops."""

    @property
    def body(self) -> bytes:
        """The body for the backend."""

    def answer(self, status: int, body: bytes) -> tuple[int, bytes]:
        """(status, body) for the client, of a whole JSON answer or of an error."""

    def stream(self, input_estimate: int) -> Stream:
        """A reader of the streamed answer; ``input_estimate`` in tokens, until usage is known."""


class Relay(Translation, Protocol):
    """One request whose client and backend speak the same dialect. ``answer`` and ``stream`` read
    it into Anthropic's all the same: for the meters, which read no other."""

    def shown(self, status: int, body: bytes) -> bytes:
        """A whole answer, or an error, as the client gets it."""

    def passing(self) -> Stream | None:
        """What the client gets of a stream; None where that is every byte of it."""
