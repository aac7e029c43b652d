"""The route table's rows: what an operation is called with, needs, answers and may refuse."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import msgspec
from starlette.datastructures import Headers
from starlette.types import Scope

from bifrost._fast.gate import Gate
from bifrost.config.settings import Settings
from bifrost.governance.directory import Directory
from bifrost.identify import Grant, Identifier
from bifrost.lanes import Lanes
from bifrost.pricing import Pricing
from bifrost.recorder import Recorder

PUBLIC = "public"  # needs no credential
OWN_KEY = "own virtual key"  # the virtual key that is asked about is the credential
PERMISSIONS = frozenset(
    {
        "audit:read",
        "audit:write",
        "config:read",
        "governance:read",
        "governance:write",
        "logs:read",
        "models:read",
        "providers:read",
        "providers:write",
        "usage:read",
    }
)


class House(msgspec.Struct, frozen=True, kw_only=True):
    """What the API works on: the stores of this process and its running configuration."""

    data_dir: Path
    directory: Directory
    gate: Gate
    recorder: Recorder
    identifier: Identifier
    pricing: Pricing
    settings: Callable[[], Settings]
    lanes: Callable[[], Lanes]
    usable: Callable[[Grant], list[str]]
    client: Callable[[Scope], bytes | None]  # what events say of who asks


class Ask(msgspec.Struct, kw_only=True):
    """One request as an operation sees it. ``document`` is the body's JSON, UNSET without."""

    operation: Operation
    path: str
    root: str
    params: Mapping[str, str]
    query: Any
    headers: Headers
    raw_headers: list[tuple[bytes, bytes]]
    document: object
    request_id: str
    client: str | None = None  # as events name it


class Reply(msgspec.Struct, kw_only=True):
    """What an operation answers: a struct, or JSON that is ready, or pieces of a long text."""

    value: object = None
    raw: bytes | None = None
    lines: Iterator[bytes] | None = None
    status: int = 200
    headers: dict[str, str] = {}


Handler = Callable[[House, Ask], Reply]


class NoQuery(msgspec.Struct, frozen=True):
    """No query parameters."""


class Operation(msgspec.Struct, frozen=True, kw_only=True):
    """A row of the table: one method of one path.

    ``body`` is the struct the document must fit, ``partial`` says that every member of it may be
    left out. ``tagged`` objects have an ETag; ``guarded`` operations honour If-Match, ``once``
    ones Idempotency-Key. ``refuses`` are the statuses beyond those that every operation has.
    ``media`` is the type of the answer.
    """

    method: str
    path: str
    name: str
    summary: str
    permission: str
    handler: Handler
    query: type[msgspec.Struct] = NoQuery
    body: type[msgspec.Struct] | None = None
    partial: bool = False
    answer: Any = None
    status: int = 200
    tagged: bool = False
    guarded: bool = False
    once: bool = False
    refuses: tuple[int, ...] = ()
    media: str = "application/json"

    @property
    def segments(self) -> tuple[str, ...]:
        """The path's parts; ``{name}`` stands for any."""
        return tuple(self.path.strip("/").split("/"))
