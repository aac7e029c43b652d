"""What verification says of entries that are not beside us: removed, or in an archive."""

from __future__ import annotations

from pathlib import Path

from bifrost.audit.depots import DepotError
from bifrost.audit.epochs import Keyring
from bifrost.audit.merkle import HASH, fold
from bifrost.audit.notes import NoteError
from bifrost.audit.parts import Minimum, Parts, checked_minimum
from bifrost.audit.segments import path_of
from bifrost.audit.tiles import TILE, Tiles
from bifrost.audit.verdict import Verdict
from bifrost.errors import StoreError


def old_root(tiles: Tiles, roots: bytes, size: int) -> bytes:
    """The root of a tree so small that its last tile is whole in the present one.

    ``roots`` are those of the whole tiles, already found to be the signed ones. Raises StoreError
    when the stored hashes of entries are not those they were made of.
    """
    whole, rest = divmod(size, TILE)
    row = b""
    if rest:
        hashes = tiles.hashes(0, whole * TILE, TILE)
        if fold(hashes) != roots[whole * HASH :][:HASH]:
            raise StoreError(f"The stored tree was altered at entries from {whole * TILE} on.")
        row = fold(hashes[: rest * HASH])
    return fold(roots[: whole * HASH] + row)


def removal(folder: Path, ring: Keyring, size: int, verdict: Verdict) -> Minimum | None:
    """What was removed by right; ``size`` entries are signed now. What is wrong goes to verdict."""
    try:
        found = checked_minimum(folder, ring)
    except (NoteError, OSError) as error:
        verdict.found(f"The minimum index (file minimum): {error}")
        return None
    if found is not None and found.seen.size > size:
        verdict.found(
            f"The log was cut back: entries were removed when it had {found.seen.size}, the newest "
            f"checkpoint has only {size}.",
            size,
        )
        return None
    if found is not None and found.index:
        verdict.minimum = found.index
    return found


def say_removed(verdict: Verdict) -> None:
    """Says that entries are gone by right."""
    if verdict.minimum:
        verdict.proved.append(
            f"That entries 0 to {verdict.minimum - 1} are gone is no damage: they were removed "
            "when their time was over, and the gateway signed that. The tree holds their hashes."
        )


def say_unread(verdict: Verdict, unread: list[tuple[int, int, str]]) -> None:
    """Says which entries could not be read, and why."""
    for first, end, why in unread:
        verdict.unread += end - first
        verdict.not_proved.append(
            f"That the archive still holds entries {first} to {end - 1}: it could not be read. "
            f"{why}"
        )


def look_at_archive(parts: Parts, verdict: Verdict) -> None:
    """Finds parts that are gone from the archive or have another size; reads none of them."""
    least, found = parts.minimum(), 0
    for first, end in parts.archived():
        if end <= least or path_of(parts.folder, first).exists():
            continue
        try:
            manifest = parts.manifest(first)
            if manifest is None:
                continue
            there = parts.depot(manifest).look(manifest.name, manifest.version)
        except DepotError as error:
            say_unread(verdict, [(first, end, str(error))])
            continue
        if there is None:
            verdict.found(f"Entries {first} to {end - 1} are missing from the archive.", first)
        elif there.size != manifest.packed:
            verdict.found(f"Entries {first} to {end - 1} were altered in the archive.", first)
        found += end - first
    if found:
        verdict.not_proved.append(
            f"What the archive holds of {found:,} entries: only that it is there. Leave --quick "
            "out to read it."
        )
