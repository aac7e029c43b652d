"""Idempotency-Key: the same request again is answered as the first time, and done once."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import UNSET

from bifrost.admin.problems import invalid
from bifrost.admin.table import Ask, House, Reply
from bifrost.governance.replays import Once


class Answered(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of an answer for its repetition: without a secret."""

    id: str
    tag: str
    body: bytes


def kept(identifier: str, tag: str, shown: object) -> bytes:
    """An answer in the form in which it is kept."""
    return msgspec.msgpack.encode(Answered(identifier, tag, msgspec.json.encode(shown)))


def asked(house: House, ask: Ask, answer: Callable[[Any], bytes]) -> Once | None:
    """What the Idempotency-Key asks for; raises Replayed, and Reused for another body.

    ``answer`` makes of what was made what is ``kept``.
    """
    key = ask.headers.get("idempotency-key")
    if key is None:
        return None
    if not 1 <= len(key) <= 255:
        raise invalid(400, [("Idempotency-Key", "expected 1 to 255 characters")])
    name = msgspec.json.encode([ask.operation.name, ask.params.get("id"), key])
    sent = ask.document if ask.document is not UNSET else {}
    content = msgspec.json.encode(sent, order="sorted")
    directory = house.directory
    return directory.once(
        directory.digest(b"once\0" + name), directory.digest(b"body\0" + content), answer
    )


def reply(
    ask: Ask, raw: bytes, status: int = 201, *, more: bytes = b"", replayed: bool = False
) -> Reply:
    """The answer that was ``kept``, ``more`` members put in; a repetition has the same bytes."""
    answer = msgspec.msgpack.decode(raw, type=Answered)
    headers = {"etag": answer.tag}
    if status == 201:
        headers["location"] = f"{ask.root}{ask.path}/{answer.id}"
    if replayed:
        headers["idempotency-replayed"] = "true"
    body = answer.body[:-1] + more + b"}" if more else answer.body
    return Reply(raw=body, status=status, headers=headers)
