"""The batch: many new virtual keys, made and checked before the first of them is stored."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

import msgspec

from bifrost.errors import BadRows, Conflict, NotFound
from bifrost.governance.entities import Entity, Kind, VirtualKey, is_name, new_id
from bifrost.governance.parents import resolved


class Batch:
    """Collects keys; ``find`` looks up what is stored by kind and name, owners once per batch."""

    def __init__(self, find: Callable[[Kind, str], Entity | None]) -> None:
        self._find = find
        self._owners: dict[tuple[Kind, str], Entity | None] = {}
        self._names: set[str] = set()
        self._keys: dict[str, VirtualKey] = {}  # by digest, in hex
        self._faults: list[tuple[int, str]] = []
        self._rows = 0

    def _owner(self, kind: Kind, reference: str) -> Entity | None:
        if (kind, reference) not in self._owners:
            self._owners[kind, reference] = self._find(kind, reference)
        return self._owners[kind, reference]

    def add(self, name: str, fields: dict[str, Any], has_value: bool) -> None:
        """Makes the next key; ``has_value`` says that a stored key has its secret already."""
        try:
            self._check(name, fields["digest"], has_value)
            stored = resolved("virtual_key", fields, self._owner)
        except (Conflict, NotFound) as error:
            self._faults.append((self._rows, str(error)))
        else:
            now = time.time_ns()
            self._names.add(name)
            self._keys[fields["digest"]] = VirtualKey(
                id=new_id("virtual_key"), name=name, created_at=now, updated_at=now, **stored
            )
        self._rows += 1

    def _check(self, name: str, digest: str, has_value: bool) -> None:
        if not is_name(name):
            raise Conflict("A name needs 1 to 200 printable characters (at most 480 bytes).")
        if name in self._names:
            raise Conflict(f"The name {name!r} stands there twice.")
        if self._find("virtual_key", name) is not None:
            raise Conflict(f"There is already a virtual key named {name!r}.")
        if has_value or digest in self._keys:
            raise Conflict(f"Another virtual key has the value given for {name!r} already.")

    def whole(self) -> list[VirtualKey]:
        """Every key; raises BadRows if one could not be made."""
        if self._faults:
            raise BadRows(self._faults)
        return list(self._keys.values())

    def entities(self) -> list[tuple[bytes, bytes]]:
        """What is stored of each key under its id."""
        return [(key.id.encode(), msgspec.msgpack.encode(key)) for key in self._keys.values()]

    def digests(self) -> list[tuple[bytes, bytes]]:
        """Under which digest each key is found."""
        return [(bytes.fromhex(key.digest), key.id.encode()) for key in self._keys.values()]
