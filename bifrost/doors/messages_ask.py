"""Calls of Claude in a cloud's dialect, put as the Messages request that they are."""

from __future__ import annotations

from collections.abc import Iterable

from bifrost._fast import wire
from bifrost.call import Call
from bifrost.errors import InvalidRequest
from bifrost.translate.bedrock_anthropic import Asked

# What belongs to the way from the client to its cloud, that is, to here.
_CLOUD = (b"x-amz-", b"x-amzn-", b"amz-sdk-", b"x-goog-user-project", b"x-goog-request-params")
_WRITTEN = (b"accept", b"anthropic-version", b"anthropic-beta", b"content-type")


def ask(call: Call, headers: Iterable[tuple[bytes, bytes]], asked: Asked) -> None:
    """Puts ``asked`` in the place of what a call brought; raises InvalidRequest.

    ``headers`` are the call's own. Its virtual key, session and client are kept; its signature and
    what its cloud's SDK adds go no further.
    """
    betas: list[bytes] = []
    kept = [(b"content-type", b"application/json"), (b"anthropic-version", asked.version.encode())]
    for name, value in headers:
        low = name.lower()
        if low == b"anthropic-beta":
            betas += [beta.strip() for beta in value.split(b",")]
        elif low not in _WRITTEN and not low.startswith(_CLOUD):
            kept.append((name, value))
    betas += [beta.encode() for beta in asked.betas]
    named = b",".join(dict.fromkeys(beta for beta in betas if beta))
    if named:
        kept.append((b"anthropic-beta", named))
    try:
        call.head = wire.read_head(kept)
        call.scan = wire.scan(asked.body)
    except wire.WireError as error:
        raise InvalidRequest(f"The request is not valid: {error}") from None
    call.body = asked.body
