"""A signed audit log as the steward makes it, and what somebody may do to its files."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path

from bifrost.audit import epochs
from bifrost.audit.log import Log, Reader
from bifrost.audit.notary import EPOCH_S, Notary
from bifrost.audit.notes import Checkpoint, PublicKey, SigningKey
from bifrost.audit.segments import frames, path_of, segments
from bifrost.audit.tiles import Growth
from bifrost.audit.verdict import Verdict
from bifrost.audit.verify import Verification


def entry(number: int, pad: str = "") -> bytes:
    return b'{"n":%d,"pad":"%b"}' % (number, pad.encode())


class Scribe:
    """Log and notary of one folder."""

    def __init__(self, data_dir: Path, *, segment_bytes: int = 1 << 20, epoch_s: float = EPOCH_S):
        self.log = Log(data_dir, segment_bytes=segment_bytes)
        self.notary = Notary(data_dir, epoch_s=epoch_s)

    def add(self, entries: Sequence[bytes]) -> int:
        first = self.log.append(entries)
        self.notary.feed(first, entries)
        return first

    def sign(self) -> None:
        self.notary.finish(self.log.next, self.add)

    def close(self) -> None:
        self.log.close()


def written(data_dir: Path, count: int, *, unsigned: int = 0, segment_bytes: int = 1 << 20) -> Path:
    """A log of so many signed and unsigned entries; returns its folder."""
    scribe = Scribe(data_dir, segment_bytes=segment_bytes)
    for start in range(0, count, 5):
        scribe.add([entry(number) for number in range(start, min(count, start + 5))])
    scribe.sign()
    for number in range(count, count + unsigned):
        scribe.add([entry(number)])
    scribe.close()
    return data_dir / "audit"


def payloads(folder: Path) -> list[bytes]:
    reader = Reader(folder, folder=folder)
    return [payload for _, payload in reader.read(0, 1 << 30)]


def rewritten(folder: Path, entries: Sequence[bytes]) -> None:
    """The log with other entries: whole frames, right checksums, no mark."""
    for first in segments(folder):
        path_of(folder, first).unlink()
    (folder / "acknowledged").unlink(missing_ok=True)
    path_of(folder, 0).write_bytes(frames(0, entries))


def resigned(folder: Path, key: SigningKey) -> None:
    """The tree and the checkpoint made anew by somebody who has a key."""
    shutil.rmtree(folder / "tile", ignore_errors=True)
    entries = payloads(folder)
    tree = Growth(folder)
    tree.add(b"".join(sha256(b"\0" + one).digest() for one in entries))
    tree.flush()
    said = Checkpoint(key.public.name, len(entries), tree.top())
    (folder / "checkpoint").write_text(key.sign(said.text))


def stolen(folder: Path) -> SigningKey:
    return SigningKey.parse((folder.parent / "audit-signing.key").read_text())


def public(folder: Path, number: int = 1) -> PublicKey:
    return epochs.Keyring(epochs.sources(folder)).epochs[number - 1].key


def examined(folder: Path, *, kept: str | None = None, key: PublicKey | None = None) -> Verdict:
    return Verification(folder, kept=kept, key=key).whole(processes=1)


def root_of(entries: Sequence[bytes]) -> bytes:
    """RFC 6962, 2.1, word by word."""
    if not entries:
        return sha256(b"").digest()
    if len(entries) == 1:
        return sha256(b"\0" + entries[0]).digest()
    half = 1
    while half * 2 < len(entries):
        half *= 2
    return sha256(b"\1" + root_of(entries[:half]) + root_of(entries[half:])).digest()


def copied(folder: Path, to: Path) -> Path:
    shutil.rmtree(to, ignore_errors=True)
    shutil.copytree(folder, to)
    return to


def all_files(folder: Path) -> list[Path]:
    return sorted(Path(top) / name for top, _, names in os.walk(folder) for name in names)
