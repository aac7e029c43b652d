"""Proofs: one entry with all that shows, to anybody with the public key, that it was logged.

The form is C2SP tlog-proof. Its ``extra`` line holds the entry and the keys that led to the present
one, as JSON; it needs no trust: the entry is hashed, the keys vouch for one another.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path

import msgspec

from bifrost.audit import extracts
from bifrost.audit.epochs import Keyring
from bifrost.audit.log import Reader
from bifrost.audit.merkle import inclusion, leaf, root_over
from bifrost.audit.notary import Signed
from bifrost.audit.notes import MOST_BYTES, NoteError, PublicKey
from bifrost.audit.tiles import Tiles
from bifrost.errors import NotFound, StoreError

TITLE = "c2sp.org/tlog-proof@v1"
MOST_PROOF = 1 << 24


class Extra(msgspec.Struct, frozen=True):
    """What a proof carries beside the path: the entry's exact bytes, and the keys' texts."""

    entry: bytes  # base64 in JSON
    keys: tuple[str, ...]


class Proven(msgspec.Struct, frozen=True):
    """What a proof proves: ``entry`` is number ``index`` of the log ``origin``, in a tree of
    ``size`` entries signed by ``key``."""

    origin: str
    index: int
    size: int
    key: str
    entry: bytes


def prove(folder: Path, index: int) -> str:
    """The proof of an entry. Raises NotFound if there is no such entry or no checkpoint covers it
    yet, StoreError when the files do not prove it."""
    try:
        signed = Signed.load(folder)
    except NoteError as error:
        raise StoreError(f"The checkpoint in {folder} is damaged: {error}") from error
    reader = Reader(folder, folder=folder)
    if not 0 <= index < reader.end():
        raise NotFound(f"There is no entry {index}; the log has {reader.end()}.")
    if index < reader.oldest():
        raise NotFound(extracts.removed(index, reader.oldest()))
    if signed is None or index >= signed.checkpoint.size:
        raise NotFound(f"Entry {index} is not yet covered by a checkpoint; wait a second.")
    [(_, entry)] = reader.read(index, 1)
    size = signed.checkpoint.size
    path = inclusion(Tiles(folder), index, size)
    if root_over(index, size, leaf(entry), path) != signed.checkpoint.root:
        raise StoreError(
            f"DAMAGED audit log: entry {index} and the stored tree do not give the signed root; "
            "`bifrost audit verify` says what was changed."
        )
    extra = b64encode(msgspec.json.encode(Extra(entry, signed.keys))).decode()
    hashes = "".join(f"{b64encode(one).decode()}\n" for one in path)
    return f"{TITLE}\nextra {extra}\nindex {index}\n{hashes}\n{signed.note}"


def check(text: str, key: PublicKey) -> Proven:
    """What a proof proves to somebody who has a public key of the log; raises NoteError."""
    head, gap, note = text.partition("\n\n")
    lines = head.split("\n")
    if lines[0] != TITLE or not gap:
        raise NoteError(f"It is not a proof: {TITLE} is expected in the first line.")
    if len(lines) < 3 or not lines[1].startswith("extra ") or not lines[2].startswith("index "):
        raise NoteError("The proof lacks the line extra or index; this one is not of Bifrost.")
    number = lines[2].removeprefix("index ")
    if not number.isascii() or not number.isdigit() or number != str(int(number[:20])):
        raise NoteError("The index of the proof is no number.")
    try:
        extra = msgspec.json.decode(b64decode(lines[1].removeprefix("extra "), validate=True),
                                    type=Extra)  # fmt: skip
        path = [b64decode(line, validate=True) for line in lines[3:]]
    except (ValueError, msgspec.DecodeError):
        raise NoteError("The proof is damaged: base64 and JSON are expected.") from None
    if any(len(one) != 32 for one in path) or any(len(one) > MOST_BYTES for one in extra.keys):
        raise NoteError("The proof is damaged: a hash or a key has a wrong size.")
    ring = Keyring(extra.keys)
    mine = ring.find(key)
    signed = ring.checked(note)
    if ring.of(signed.size).number < mine.number:
        raise NoteError("The proof's checkpoint is signed by an older key than yours.")
    if root_over(int(number), signed.size, leaf(extra.entry), path) != signed.root:
        raise NoteError("The entry does not lead to the signed root: it is not the logged one.")
    return Proven(signed.origin, int(number), signed.size, key.text, extra.entry)
