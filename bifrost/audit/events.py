"""Events: what happened, as compact versioned JSON. The outbox carries them.

Ids, not names; no content; no secrets. ``v`` rises when a field changes its meaning.
"""

from __future__ import annotations

import msgspec


class ModelAccess(
    msgspec.Struct, kw_only=True, omit_defaults=True, tag_field="type", tag="model", gc=False
):
    """One request to a model: who, what, how much, how it ended. Times in ns, money in nano-USD.

    ``outcome``: ok, refused (by us, ``code`` says why), error (the provider's status), cut (the
    client left), broken (the provider broke off), unsettled (its worker died; charged in full).
    ``source``: where the token counts come from (reported, partial, estimated, reserved).
    ``output_limit``: tokens, where the gateway lowered it to what the budget afforded.
    """

    v: int = 1
    at: int
    request: str
    key: str
    user: str | None = None
    team: str | None = None
    customer: str | None = None
    asked: str | None = None
    model: str | None = None
    provider: str | None = None
    provider_key: str | None = None
    outcome: str
    code: str | None = None
    status: int = 0
    stream: bool = False
    in_fresh: int = 0
    in_cache_read: int = 0
    in_cache_w5m: int = 0
    in_cache_w1h: int = 0
    in_tool: int = 0
    out_text: int = 0
    out_think: int = 0
    web_searches: int = 0
    tier: str | None = None
    speed: str | None = None
    geo: str | None = None
    source: str | None = None
    cost: int = 0
    reserved: int = 0
    output_limit: int = 0
    prices: str | None = None
    session: str | None = None
    agent: str | None = None
    upstream_request: str | None = None
    took_ns: int = 0
    first_byte_ns: int = 0


def opening(**fields: str | None) -> bytes:
    """How an event of a request to a model begins: JSON without its closing brace."""
    known = {name: value for name, value in fields.items() if value is not None}
    return encoder.encode({"type": "model", **known})[:-1]


def members(**fields: str) -> bytes:
    """More members for an opened event, with their leading comma."""
    return b"," + encoder.encode(fields)[1:-1]


encoder = msgspec.json.Encoder()
decoder = msgspec.json.Decoder(ModelAccess)


def encode(event: ModelAccess) -> bytes:
    """The event as the bytes that are stored and later hashed."""
    return encoder.encode(event)


def decode(raw: bytes) -> ModelAccess:
    """The event of stored bytes; raises msgspec.ValidationError on anything else."""
    return decoder.decode(raw)
