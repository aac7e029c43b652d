"""What one request consumed: disjoint token buckets read from a provider's own account.

Part of the metering room; imports nothing of bifrost. Nothing here raises on bad input: what
cannot be read is estimated, and ``Usage.source`` says so.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec

Source = Literal["reported", "partial", "estimated"]

# A count above this is noise, not usage: it would overflow the 64-bit counters of the budgets.
MAX_COUNT = 1 << 40
_ON_TOP = frozenset({"compaction", "advisor_message"})


class Tokens(msgspec.Struct, frozen=True, kw_only=True, gc=False):
    """Disjoint buckets of tokens: each token is in exactly one of them."""

    in_fresh: int = 0
    in_cache_read: int = 0
    in_cache_w5m: int = 0
    in_cache_w1h: int = 0
    in_tool: int = 0
    out_text: int = 0
    out_think: int = 0

    @property
    def input_tokens(self) -> int:
        """The whole prompt: fresh, read from and written to the cache, and tool input."""
        return (
            self.in_fresh
            + self.in_cache_read
            + self.in_cache_w5m
            + self.in_cache_w1h
            + self.in_tool
        )

    @property
    def output_tokens(self) -> int:
        """Everything generated, thinking included."""
        return self.out_text + self.out_think


class Iteration(Tokens, frozen=True, kw_only=True, gc=False):
    """One sampling of a request that took several; ``model`` None means the request's model."""

    model: str | None = None
    kind: str = "message"


class Usage(Tokens, frozen=True, kw_only=True, gc=False):
    """Usage of one request. With ``iterations`` those are billed, not the buckets beside them.

    ``source``: ``reported`` is the provider's final account, ``partial`` a cut or damaged one,
    ``estimated`` has an input that nobody reported.
    """

    web_searches: int = 0
    images: int = 0
    tier: str | None = None
    speed: str | None = None
    geo: str | None = None
    served_model: str | None = None
    source: Source = "reported"
    iterations: tuple[Iteration, ...] = ()

    def assuming(self, *, tier: str | None, speed: str | None, geo: str | None) -> Usage:
        """The same usage, with what the request asked for where the response named nothing."""
        return msgspec.structs.replace(
            self,
            tier=self.tier if self.tier is not None else tier,
            speed=self.speed if self.speed is not None else speed,
            geo=self.geo if self.geo is not None else geo,
        )

    def served_in(self, geo: str) -> Usage:
        """The same usage, served in this region whatever the response named."""
        return msgspec.structs.replace(self, geo=geo)


_Count = Annotated[int, msgspec.Meta(ge=0, le=MAX_COUNT)]


class _Split(msgspec.Struct, gc=False):
    ephemeral_5m_input_tokens: _Count | None = None
    ephemeral_1h_input_tokens: _Count | None = None


class _Details(msgspec.Struct, gc=False):
    thinking_tokens: _Count | None = None


class _ServerTools(msgspec.Struct, gc=False):
    web_search_requests: _Count | None = None


class _Counts(msgspec.Struct, gc=False):
    input_tokens: _Count | None = None
    output_tokens: _Count | None = None
    cache_read_input_tokens: _Count | None = None
    cache_creation_input_tokens: _Count | None = None
    cache_creation: _Split | None = None
    output_tokens_details: _Details | None = None


class _Sampling(_Counts, gc=False):
    type: str | None = None
    model: str | None = None


class _Raw(_Counts, gc=False):
    server_tool_use: _ServerTools | None = None
    service_tier: str | None = None
    speed: str | None = None
    inference_geo: str | None = None
    iterations: list[_Sampling] | None = None
    # Our own word, of translators: which of these counts are by size, the host having told none.
    estimated: list[str] | None = None


class _Message(msgspec.Struct, gc=False):
    model: str | None = None
    usage: _Raw | None = None


class _Start(msgspec.Struct, gc=False):
    message: _Message | None = None


class _Delta(msgspec.Struct, gc=False):
    usage: _Raw | None = None


_decode_usage = msgspec.json.Decoder(_Raw).decode
_decode_start = msgspec.json.Decoder(_Start).decode
_decode_delta = msgspec.json.Decoder(_Delta).decode
_decode_any = msgspec.json.Decoder().decode
_BROKEN = (msgspec.MsgspecError, RecursionError, ValueError)


TEXT = (18, 5)  # bytes of generated text and the tokens they stand for: 3.6 bytes a token


def output_estimate(output_bytes: int, text: tuple[int, int] = TEXT) -> int:
    """Tokens that ``output_bytes`` of generated text stand for, rounded up.

    ``text`` is (bytes, tokens) of other text of that model.
    """
    size, tokens = text
    return -(-max(output_bytes, 0) * tokens // size)


def from_message(
    raw_usage: bytes, model: str | None, *, input_estimate: int = 0, output_bytes: int = 0
) -> Usage:
    """Usage of a whole answer, from the raw JSON of its ``usage`` object."""
    source: Source = "reported"
    try:
        raw: _Raw | None = _decode_usage(raw_usage)
    except _BROKEN:
        raw, flawed = _mend(_loose(raw_usage))
        source = "partial" if flawed else "reported"
    return _usage(raw, model, source, False, output_estimate(output_bytes), input_estimate)


def from_stream(
    start: bytes | None,
    delta: bytes | None,
    *,
    output_bytes: int,
    stopped: bool,
    input_estimate: int,
    text: tuple[int, int] = TEXT,
    most: int | None = None,
    named: bool = True,
) -> Usage:
    """Usage of a stream, from its ``message_start`` and its last ``message_delta`` event.

    The delta is cumulative: what it names replaces, what it omits stays as the start said. A
    stream without a delta or without its stop is cut: its output is the larger of what was
    reported and what ``output_bytes`` amount to, at ``text`` (bytes, tokens), which is not believed
    beyond ``most`` tokens, the output that was asked for. ``named``: the model in it is the
    provider's word.
    """
    opened: _Raw | None = None
    closed: _Raw | None = None
    model: str | None = None
    flawed = False
    if start is not None:
        try:
            message = _decode_start(start).message
            if message is not None:
                opened, model = message.usage, message.model
        except _BROKEN:
            loose = _member(_loose(start), "message")
            opened, flawed = _mend(_member(loose, "usage"))
            model = _text(_member(loose, "model"))
    if delta is not None:
        try:
            closed = _decode_delta(delta).usage
        except _BROKEN:
            closed, broken = _mend(_member(_loose(delta), "usage"))
            flawed = flawed or broken
    cut = closed is None or not stopped
    raw = closed if opened is None else opened if closed is None else _overlay(opened, closed)
    source: Source = "partial" if cut or flawed else "reported"
    if cut and opened is None:
        source = "estimated"
    seen = output_estimate(output_bytes, text)
    seen = seen if most is None else min(seen, most)
    return _usage(raw, model if named else None, source, cut, seen, input_estimate)


def _overlay(opened: _Raw, closed: _Raw) -> _Raw:
    """``opened`` with everything ``closed`` names in its place (the decoded objects are ours)."""
    if closed.cache_creation is not None:
        opened.cache_creation = closed.cache_creation
        opened.cache_creation_input_tokens = closed.cache_creation_input_tokens
    elif closed.cache_creation_input_tokens is not None:
        opened.cache_creation_input_tokens = written = closed.cache_creation_input_tokens
        split = opened.cache_creation
        if split is not None:
            hour = min(split.ephemeral_1h_input_tokens or 0, written)
            opened.cache_creation = _Split(written - hour, hour)
    if closed.input_tokens is not None:
        opened.input_tokens = closed.input_tokens
    if closed.output_tokens is not None:
        opened.output_tokens = closed.output_tokens
    if closed.cache_read_input_tokens is not None:
        opened.cache_read_input_tokens = closed.cache_read_input_tokens
    if closed.output_tokens_details is not None:
        opened.output_tokens_details = closed.output_tokens_details
    if closed.server_tool_use is not None:
        opened.server_tool_use = closed.server_tool_use
    if closed.service_tier is not None:
        opened.service_tier = closed.service_tier
    if closed.speed is not None:
        opened.speed = closed.speed
    if closed.inference_geo is not None:
        opened.inference_geo = closed.inference_geo
    if closed.iterations is not None:
        opened.iterations = closed.iterations
    opened.estimated = closed.estimated
    return opened


# (fresh, read, written for 5 minutes, written for 1 hour, text, thinking)
_Buckets = tuple[int, int, int, int, int, int]


def _buckets(raw: _Counts) -> _Buckets:
    """The disjoint buckets of a usage object; what is missing is 0."""
    written = raw.cache_creation_input_tokens or 0
    hour = 0
    split = raw.cache_creation
    if split is not None:
        hour = split.ephemeral_1h_input_tokens or 0
        written = max(written, hour + (split.ephemeral_5m_input_tokens or 0))
    out = raw.output_tokens or 0
    details = raw.output_tokens_details
    think = min(details.thinking_tokens or 0, out) if details is not None else 0
    read = raw.cache_read_input_tokens or 0
    return raw.input_tokens or 0, read, written - hour, hour, out - think, think


def _usage(
    raw: _Raw | None, model: str | None, source: Source, cut: bool, floor: int, estimate: int
) -> Usage:
    if raw is None:
        raw, source = _Raw(), "estimated"
    fresh, read, five, hour, text, think = _buckets(raw)
    # A host that opens with zeros has not counted yet; nothing is served from an empty prompt.
    if raw.input_tokens is None or (cut and not (fresh or read or five or hour)):
        fresh = max(fresh, estimate - read - five - hour, 0)
        source = "partial" if source != "estimated" and (read or five or hour) else "estimated"
    if cut or raw.output_tokens is None:
        text = max(text, floor - think)
        source = "partial" if source == "reported" else source
    if raw.estimated and source != "estimated":
        source = "estimated" if "input_tokens" in raw.estimated else "partial"
    iterations: tuple[Iteration, ...] = ()
    if raw.iterations:
        top = _iteration((fresh, read, five, hour, text, think), None, "message")
        iterations, model = _iterations(raw.iterations, top, model)
        if source == "reported" and iterations[-1].kind == "remainder":
            source = "partial"
    tools = raw.server_tool_use
    return Usage(
        in_fresh=fresh,
        in_cache_read=read,
        in_cache_w5m=five,
        in_cache_w1h=hour,
        out_text=text,
        out_think=think,
        web_searches=(tools.web_search_requests or 0) if tools is not None else 0,
        tier=raw.service_tier,
        speed=raw.speed,
        geo=raw.inference_geo,
        served_model=model,
        source=source,
        iterations=iterations,
    )


def _iterations(
    samplings: list[_Sampling], top: Iteration, model: str | None
) -> tuple[tuple[Iteration, ...], str | None]:
    """The iterations to bill and the model that served in the end.

    Compaction and advisor iterations come on top of the top-level numbers, the others are
    contained in them (anthropic 2.12, ``BetaUsage.iterations``). What the others fall short of
    the top level, as in a stream cut between two of them, becomes a last one, ``remainder``.
    """
    found = [_iteration(_buckets(raw), raw.model, raw.type or "message") for raw in samplings]
    for one in found:
        if one.kind == "fallback_message" and one.model is not None:
            model = one.model
    contained = [one for one in found if one.kind not in _ON_TOP]
    if not contained:
        return (top, *found), model
    in_rest = max(top.input_tokens - sum(one.input_tokens for one in contained), 0)
    out_rest = max(top.output_tokens - sum(one.output_tokens for one in contained), 0)
    if in_rest or out_rest:
        rest = Iteration(in_fresh=in_rest, out_text=out_rest, model=model, kind="remainder")
        found.append(rest)
    return tuple(found), model


def _iteration(buckets: _Buckets, model: str | None, kind: str) -> Iteration:
    fresh, read, five, hour, text, think = buckets
    return Iteration(
        in_fresh=fresh,
        in_cache_read=read,
        in_cache_w5m=five,
        in_cache_w1h=hour,
        out_text=text,
        out_think=think,
        model=model,
        kind=kind,
    )


def _loose(data: bytes) -> Any:
    try:
        return _decode_any(data)
    except _BROKEN:
        return None


def _member(value: Any, name: str) -> Any:
    return value.get(name) if isinstance(value, dict) else None


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _mend(value: Any) -> tuple[_Raw | None, bool]:
    """The readable fields of a usage object the typed decoder refused; True if any was dropped."""
    if not isinstance(value, dict):
        return None, True
    kept, dropped = _sift(value, _Raw)
    return msgspec.convert(kept, _Raw), dropped


def _sift(value: dict[Any, Any], shape: type[msgspec.Struct]) -> tuple[dict[str, Any], bool]:
    kept: dict[str, Any] = {}
    dropped = False
    for name in shape.__struct_fields__:
        item = value.get(name)
        if item is None:
            continue
        inner = _SHAPES.get(name)
        if name == "iterations":
            pairs = [_sift(one, _Sampling) for one in item] if _is_dicts(item) else []
            kept[name] = [one for one, _ in pairs]
            dropped = dropped or not pairs or any(bad for _, bad in pairs)
        elif inner is not None and isinstance(item, dict):
            kept[name], bad = _sift(item, inner)
            dropped = dropped or bad
        elif name in _TEXTS and isinstance(item, str):
            kept[name] = item
        elif inner is None and name not in _TEXTS and _is_count(item):
            kept[name] = int(item)
        else:
            dropped = True
    return kept, dropped


def _is_dicts(value: Any) -> bool:
    return isinstance(value, list) and all(isinstance(one, dict) for one in value)


def _is_count(value: Any) -> bool:
    """Whether ``value`` is a whole number in range; 12.0 is, True and 12.5 are not."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return 0 <= value <= MAX_COUNT and int(value) == value


_SHAPES: dict[str, type[msgspec.Struct]] = {
    "cache_creation": _Split,
    "output_tokens_details": _Details,
    "server_tool_use": _ServerTools,
}
_TEXTS = frozenset({"service_tier", "speed", "inference_geo", "type", "model"})
