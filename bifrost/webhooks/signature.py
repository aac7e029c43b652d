"""Signatures of Standard Webhooks 1.0: HMAC-SHA256, one per secret, so that secrets can change."""

from __future__ import annotations

import base64
import hashlib
import hmac
from collections.abc import Iterable

from bifrost.config.values import signing_key


def sign(secret: str, message_id: str, timestamp: int, body: bytes) -> str:
    """The signature ``v1,…`` of one message; ``timestamp`` is in Unix seconds.

    Raises ValueError for a secret that is none.
    """
    content = b"%b.%d.%b" % (message_id.encode(), timestamp, body)
    digest = hmac.new(signing_key(secret), content, hashlib.sha256).digest()
    return "v1," + base64.b64encode(digest).decode()


def headers(secrets: Iterable[str], message_id: str, timestamp: int, body: bytes) -> dict[str, str]:
    """The three headers of a message, signed with every one of these secrets."""
    signatures = [sign(secret, message_id, timestamp, body) for secret in secrets]
    return {
        "webhook-id": message_id,
        "webhook-timestamp": str(timestamp),
        "webhook-signature": " ".join(signatures),
    }
