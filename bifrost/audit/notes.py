"""Signed notes (C2SP signed-note, Ed25519), the keys that sign them, and checkpoints.

``cryptography`` is loaded only where something is signed or checked.
"""

from __future__ import annotations

import binascii
import re
from base64 import b64decode, b64encode
from hashlib import sha256

import msgspec

from bifrost.errors import BifrostError

ED25519 = b"\x01"
DASH = "\N{EM DASH} "
_NAME = re.compile(r"[^\s+\x00-\x1f]{1,200}")
_SIZE = re.compile(r"0|[1-9][0-9]{0,18}")
MOST_BYTES = 64 << 10


class NoteError(BifrostError):
    """A note, a key or a checkpoint is malformed or not signed as it must be."""


def key_id(name: str, kind: bytes, raw: bytes) -> bytes:
    """The four bytes that signatures name a key with."""
    return sha256(name.encode() + b"\n" + kind + raw).digest()[:4]


def verifier_key(text: str) -> tuple[str, bytes, bytes]:
    """Name, kind (a byte) and bytes of a key of the form name+id+base64; raises NoteError."""
    name, _, rest = text.strip().partition("+")
    number, _, coded = rest.partition("+")
    raw = _decoded(coded)
    if not _NAME.fullmatch(name) or not raw:
        raise NoteError("That is not a public key of the form name+id+base64.")
    if number != key_id(name, raw[:1], raw[1:]).hex():
        raise NoteError(f"The public key {name} was altered: its id does not belong to it.")
    return name, raw[:1], raw[1:]


class PublicKey(msgspec.Struct, frozen=True):
    """An Ed25519 verifier key: its name and the 32 bytes."""

    name: str
    raw: bytes

    @property
    def id(self) -> bytes:
        """The four bytes that signatures name the key with."""
        return key_id(self.name, ED25519, self.raw)

    @property
    def text(self) -> str:
        """The key as ``name+id+base64``, the form of Go's ``note`` package."""
        return f"{self.name}+{self.id.hex()}+{b64encode(ED25519 + self.raw).decode()}"

    @classmethod
    def parse(cls, text: str) -> PublicKey:
        """The key of a text; raises NoteError."""
        name, kind, raw = verifier_key(text)
        if kind != ED25519 or len(raw) != 32:
            raise NoteError("That is not a public key of the form name+id+base64 (Ed25519).")
        return cls(name, raw)

    def signed(self, message: bytes, signature: bytes) -> bool:
        """Whether this key made the signature."""
        from cryptography.exceptions import InvalidSignature
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

        try:
            Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
        except InvalidSignature:
            return False
        return True


class SigningKey:
    """An Ed25519 private key with its name."""

    def __init__(self, name: str, seed: bytes) -> None:
        from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
        from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

        self._seed = seed
        self._private = Ed25519PrivateKey.from_private_bytes(seed)
        raw = self._private.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
        self.public = PublicKey(name, raw)

    @property
    def text(self) -> str:
        """The key as it is stored, the form of Go's ``note`` package."""
        coded = b64encode(ED25519 + self._seed).decode()
        return f"PRIVATE+KEY+{self.public.name}+{self.public.id.hex()}+{coded}"

    @classmethod
    def parse(cls, text: str) -> SigningKey:
        """The key of a stored text; raises NoteError, which does not hold it."""
        parts = text.strip().split("+", 4)
        raw = _decoded(parts[4]) if len(parts) == 5 else None
        if parts[:2] != ["PRIVATE", "KEY"] or raw is None or len(raw) != 33 or raw[:1] != ED25519:
            raise NoteError("The file holds no Ed25519 signing key.")
        key = cls(parts[2], raw[1:])
        if not _NAME.fullmatch(parts[2]) or key.public.id.hex() != parts[3]:
            raise NoteError("The signing key was altered: its id does not belong to it.")
        return key

    def sign(self, text: str) -> str:
        """The text as a signed note."""
        signature = b64encode(self.public.id + self._private.sign(text.encode())).decode()
        return f"{text}\n{DASH}{self.public.name} {signature}\n"


def signatures(note: str) -> tuple[str, list[tuple[str, bytes, bytes]]]:
    """The text of a note and its signatures, unchecked: name, key's id, bytes. Or NoteError."""
    text, gap, lines = note.rpartition("\n\n")
    text += "\n"
    if not gap or not lines.endswith("\n") or len(note) > MOST_BYTES:
        raise NoteError("It is not a signed note.")
    if any(ord(char) < 32 and char != "\n" for char in note):
        raise NoteError("It is not a signed note: it holds a control character.")
    found = []
    for line in lines[:-1].split("\n"):
        name, _, coded = line.removeprefix(DASH).partition(" ")
        raw = _decoded(coded)
        if not line.startswith(DASH) or not _NAME.fullmatch(name) or raw is None or len(raw) < 5:
            raise NoteError("A signature line of the note is malformed.")
        found.append((name, raw[:4], raw[4:]))
    return text, found


def opened(note: str, key: PublicKey) -> str:
    """The text of a note that the key has signed; raises NoteError."""
    text, lines = signatures(note)
    mine = [raw for name, number, raw in lines if name == key.name and number == key.id]
    if not mine:
        raise NoteError(f"The note is not signed by the key {key.name}+{key.id.hex()}.")
    if not all(key.signed(text.encode(), raw) for raw in mine):
        raise NoteError(f"The signature of {key.name} does not fit the note.")
    return text


class Checkpoint(msgspec.Struct, frozen=True):
    """What a checkpoint says: how many entries of which log have which root."""

    origin: str
    size: int
    root: bytes

    @property
    def text(self) -> str:
        """The text that is signed (C2SP tlog-checkpoint)."""
        return f"{self.origin}\n{self.size}\n{b64encode(self.root).decode()}\n"

    @classmethod
    def parse(cls, text: str) -> Checkpoint:
        """The checkpoint of a note or its text, unchecked; raises NoteError."""
        lines = text.split("\n")
        root = _decoded(lines[2]) if len(lines) > 3 else None
        if root is None or len(root) != 32 or not lines[0] or not _SIZE.fullmatch(lines[1]):
            raise NoteError("It is not a checkpoint: origin, size and root are expected.")
        return cls(lines[0], int(lines[1]), root)


def _decoded(coded: str) -> bytes | None:
    """Base64 in its only right form, None otherwise."""
    try:
        raw = b64decode(coded, validate=True)
    except (binascii.Error, ValueError):
        return None
    return raw if b64encode(raw).decode() == coded else None
