"""Entity tags: which state of an object a client has seen. What is spent is no part of it."""

from __future__ import annotations

import re

import msgspec
from starlette.datastructures import Headers

from bifrost.admin.problems import Problem
from bifrost.governance.directory import Directory

_TAG = re.compile(r'\s*((?:W/)?"[\x21\x23-\x7e\x80-\xff]*")\s*')


def tag_of(directory: Directory, stored: msgspec.Struct) -> str:
    """The strong tag of a stored object."""
    digest = directory.digest(b"etag\0" + msgspec.msgpack.encode(stored))
    return f'"{digest[:16].hex()}"'


def require_match(headers: Headers, tag: str) -> bool:
    """Whether the change was made to depend on a tag; raises Problem 412 if it is another one."""
    wanted = headers.get("if-match")
    if wanted is None:
        return False
    if wanted.strip() != "*" and tag not in _listed(wanted):  # weak tags never match
        raise changed()
    return True


def changed() -> Problem:
    """What is answered when the object is not any more as If-Match says."""
    return Problem(
        412, "The object was changed since you read it; read it again and repeat your change."
    )


def is_known(headers: Headers, tag: str) -> bool:
    """Whether the client says that it has the object in this state (If-None-Match)."""
    known = headers.get("if-none-match")
    if known is None:
        return False
    return known.strip() == "*" or tag in {one.removeprefix("W/") for one in _listed(known)}


def _listed(text: str) -> set[str]:
    return {found[1] for part in text.split(",") if (found := _TAG.fullmatch(part))}
