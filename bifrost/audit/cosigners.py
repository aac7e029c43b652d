"""Cosigners: witnesses that saw a checkpoint, and say when (C2SP tlog-cosignature).

A witness cosigns a checkpoint only if the log it saw before is its beginning. So the cosignature
bounds the time of the entries from above, and who shows the witness one log cannot show others
another.
"""

from __future__ import annotations

import struct
from datetime import UTC, datetime, timedelta

import msgspec

from bifrost.audit.notes import Checkpoint, NoteError, key_id, signatures, verifier_key

ED25519, ML_DSA_44 = b"\x04", b"\x06"
SIZES = {ED25519: 32, ML_DSA_44: 1312}
LATEST = (1 << 63) - 1
LAST_SHOWN = 253_402_300_799  # the last second of the year 9999


class Cosigner(msgspec.Struct, frozen=True):
    """A witness's key: its name, the kind of key and the key."""

    name: str
    kind: bytes
    raw: bytes

    @property
    def id(self) -> bytes:
        """The four bytes that signatures name the key with."""
        return key_id(self.name, self.kind, self.raw)

    @classmethod
    def parse(cls, text: str) -> Cosigner:
        """The key of a text of the form name+id+base64; raises NoteError."""
        name, kind, raw = verifier_key(text)
        if len(raw) != SIZES.get(kind):
            raise NoteError(
                f"The key {name} is not a witness's: type 4 (Ed25519) or 6 (ML-DSA-44) is expected."
            )
        return cls(name, kind, raw)

    def seen(self, note: str) -> int:
        """When it cosigned a checkpoint, in seconds since 1970; 0 if it does not say.

        Raises NoteError when the note is not cosigned by it.
        """
        text, lines = signatures(note)
        mine = [raw for name, number, raw in lines if (name, number) == (self.name, self.id)]
        if not mine:
            raise NoteError(f"The checkpoint is not cosigned by {self.name}+{self.id.hex()}.")
        for raw in mine:
            at = int.from_bytes(raw[:8], "big")
            if len(raw) < 8 or at > LATEST or not self._signed(text, at, raw[8:]):
                raise NoteError(f"The cosignature of {self.name} does not fit the checkpoint.")
        return at

    def _signed(self, text: str, at: int, signature: bytes) -> bool:
        from cryptography.exceptions import InvalidSignature

        try:
            if self.kind == ED25519:
                from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

                message = f"cosignature/v1\ntime {at}\n{text}".encode()
                Ed25519PublicKey.from_public_bytes(self.raw).verify(signature, message)
            else:
                self._verify_post_quantum(signature, self._subtree(Checkpoint.parse(text), at))
        except InvalidSignature:
            return False
        return True

    def _verify_post_quantum(self, signature: bytes, message: bytes) -> None:
        try:
            from cryptography.hazmat.primitives.asymmetric.mldsa import MLDSA44PublicKey
        except ImportError:
            raise NoteError(
                f"The key {self.name} is ML-DSA-44, which the installed cryptography lacks:"
                " install a newer one."
            ) from None
        MLDSA44PublicKey.from_public_bytes(self.raw).verify(signature, message)

    def _subtree(self, said: Checkpoint, at: int) -> bytes:
        """The structure ``cosigned_message`` of a whole tree."""
        return b"".join(
            (
                b"subtree/v1\n\0", _prefixed(self.name), struct.pack(">Q", at),
                _prefixed(said.origin), struct.pack(">QQ", 0, said.size), said.root,
            )
        )  # fmt: skip


def witnessed(name: str, at: int) -> str:
    """What a cosignature of a kept checkpoint proves, to whoever trusts the witness."""
    when, made = "", ""
    if at:
        moment = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(seconds=min(at, LAST_SHOWN))
        when, made = f" at {moment:%Y-%m-%dT%H:%M:%SZ}", "its entries were there by then, and "
    return (
        f"The witness {name} cosigned your checkpoint{when}: if it is honest, {made}it has seen no"
        " log of this name that begins otherwise."
    )


def _prefixed(text: str) -> bytes:
    raw = text.encode()
    if not 1 <= len(raw) <= 255:
        raise NoteError("A name is too long to be cosigned.")
    return bytes([len(raw)]) + raw
