"""Parts: where the entries of a log are. Removed, in the archive, or in segments beside us.

Entries before ``minimum`` were removed, and a signed note says so. ``archived/`` holds a manifest
of each part that lies in a depot; whatever is not there is a segment. Parts follow one another
without a gap. A part is trusted as little as a segment: the tree says whether it holds what was
signed.
"""

from __future__ import annotations

import hashlib
import re
import sys
import threading
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import msgspec

from bifrost.audit import depots, epochs
from bifrost.audit.depots import Depot
from bifrost.audit.epochs import Keyring
from bifrost.audit.notes import Checkpoint, NoteError, SigningKey, opened
from bifrost.audit.segments import path_of, segments
from bifrost.errors import StoreError

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

FOLDER = "archived"
LAST = "last"  # the newest outbox number of what is archived
MINIMUM = "minimum"
SUFFIX = ".json"
LEVEL = 6  # 64 MiB take 0.7 s; 9 takes twice that and saves a hundredth
PIECE = 1 << 20
_TITLE = "bifrost audit log: minimum index v1"
_NAME = re.compile(r"([0-9]{20})-([0-9]{20})\.json")
_UNFIT = re.compile(r"[^A-Za-z0-9_/-]")
_unpacked: dict[str, bytes] = {}  # the part that was read last
_one = threading.Lock()


class Manifest(msgspec.Struct, frozen=True, kw_only=True):
    """A part: entries ``first`` to before ``end``, in a depot under ``name``.

    ``size`` and ``sha256`` are those of the segment, ``packed`` and ``packed_sha256`` those of what
    lies in the depot. ``root`` is the root of the tree over all entries before ``end``. ``newest``
    is when the last entry was logged, ``until`` when the lock ends (ns, 0 without one).
    """

    v: int = 1
    origin: str
    first: int
    end: int
    size: int
    sha256: str
    packed: int
    packed_sha256: str
    root: str
    newest: int
    until: int = 0
    name: str
    depot: str = ""
    version: str = ""
    note_version: str = ""  # of the manifest's own copy in the depot

    @property
    def note_name(self) -> str:
        """Under which name the depot keeps the manifest."""
        return self.name.removesuffix(".log.zst") + SUFFIX


class Minimum(msgspec.Struct, frozen=True):
    """What the signed note says: entries before ``index`` were removed; ``seen`` is the tree that
    was signed then, and records it."""

    index: int
    seen: Checkpoint


class Parts:
    """Where the parts of the log in a folder are; each call looks anew."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def minimum(self) -> int:
        """The first index that was not removed, as the note says it, unchecked; 0 without one."""
        try:
            lines = epochs.text(self.folder / MINIMUM).split("\n")
        except FileNotFoundError:
            return 0
        except (NoteError, OSError) as error:
            raise StoreError(f"{self.folder / MINIMUM} cannot be read: {error}") from error
        return int(lines[2]) if len(lines) > 2 and lines[2].isdigit() else 0

    def archived(self) -> list[tuple[int, int]]:
        """First and end of each part in a depot, rising, also of those that are to be removed."""
        return sorted((first, end) for first, end, _ in self._files())

    def starts(self) -> list[int]:
        """The first index of every part and segment with entries to be read, rising."""
        least = self.minimum()
        found = {first for first, end in self.archived() if end > least}
        local = segments(self.folder)
        afters = zip(local, local[1:], strict=False)
        kept = [one for one, after in afters if after > least] + local[-1:]
        return sorted(found | set(kept))

    def manifest(self, first: int) -> Manifest | None:
        """The manifest of the part that begins with an entry; raises StoreError."""
        return next((_load(path) for begin, _, path in self._files() if begin == first), None)

    def manifests(self) -> list[Manifest]:
        """All of them; raises StoreError."""
        return [one for _, _, path in self._files() if (one := _load(path)) is not None]

    def segment(self, first: int) -> bytes | None:
        """The bytes of a segment, from here or from its depot; None if it is in neither place.

        Raises DepotError when the depot cannot be asked, StoreError when what it holds cannot be
        unpacked.
        """
        try:
            return path_of(self.folder, first).read_bytes()
        except FileNotFoundError:
            return self.part(first)

    def part(self, first: int) -> bytes | None:
        """The same, from the depot alone; the last one read is kept in memory."""
        manifest = self.manifest(first)
        if manifest is None:
            return None
        key = f"{manifest.depot} {manifest.name} {manifest.sha256}"
        with _one:
            data = _unpacked.get(key)
        if data is None:
            found = self.depot(manifest).get(manifest.name, manifest.version)
            if found is None:
                return None
            data = unpacked(manifest, found.data)
            with _one:
                _unpacked.clear()
                _unpacked[key] = data
        return data

    def depot(self, manifest: Manifest) -> Depot:
        """Where a part lies."""
        return depots.opened(manifest.depot, self.folder)

    def path(self, first: int, end: int) -> Path:
        """Where the manifest of a part is."""
        return self.folder / FOLDER / f"{first:020d}-{end:020d}{SUFFIX}"

    def _files(self) -> Iterator[tuple[int, int, Path]]:
        folder = self.folder / FOLDER
        for path in folder.iterdir() if folder.is_dir() else ():
            if shape := _NAME.fullmatch(path.name):
                yield int(shape[1]), int(shape[2]), path


def _load(path: Path) -> Manifest | None:
    try:
        return msgspec.json.decode(path.read_bytes(), type=Manifest)
    except FileNotFoundError:  # removed at this moment
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise StoreError(f"The manifest {path} cannot be read: {error}") from error


def object_name(origin: str, first: int, end: int) -> str:
    """Under which name a part goes into a depot; several logs may share one."""
    return f"{_UNFIT.sub('_', origin)}/{first:020d}-{end:020d}.log.zst"


def pack(data: bytes) -> bytes:
    """A segment as it goes into the archive."""
    packer = zstd.ZstdCompressor(LEVEL)
    packer.set_pledged_input_size(len(data))
    view = memoryview(data)
    parts = [packer.compress(view[at : at + PIECE]) for at in range(0, len(data), PIECE)]
    return b"".join((*parts, packer.flush()))


def unpacked(manifest: Manifest, packed: bytes) -> bytes:
    """The segment of a part, not compared with anything; raises StoreError if it is none."""
    return b"".join(_pieces(manifest, packed))


def is_whole(manifest: Manifest, packed: bytes) -> bool:
    """Whether what a depot holds gives the very segment of the manifest."""
    digest = hashlib.sha256()
    try:
        for piece in _pieces(manifest, packed):
            digest.update(piece)
    except StoreError:
        return False
    return digest.hexdigest() == manifest.sha256


def _pieces(manifest: Manifest, packed: bytes) -> Iterator[bytes]:
    """The segment of a part, never more than it may be. In pieces: the steward shares our
    interpreter, and a segment is large."""
    unpacker, left, given = zstd.ZstdDecompressor(), manifest.size, packed
    try:
        while not unpacker.eof:
            piece = unpacker.decompress(given, PIECE)
            given, left = b"", left - len(piece)
            if left < 0 or not piece and unpacker.needs_input:
                raise zstd.ZstdError("it has another size than its manifest says")
            yield piece
        if left or unpacker.unused_data:
            raise zstd.ZstdError("it has another size than its manifest says")
    except (zstd.ZstdError, EOFError) as error:
        raise StoreError(
            f"DAMAGED audit log: {manifest.name} in the archive {manifest.depot} cannot be"
            f" unpacked: {error}."
        ) from error


def minimum_note(key: SigningKey, index: int, seen: Checkpoint) -> str:
    """The note that lets entries before an index be gone."""
    root = b64encode(seen.root).decode()
    return key.sign(f"{_TITLE}\n{seen.origin}\n{index}\n{seen.size}\n{root}\n")


def checked_minimum(folder: Path, ring: Keyring) -> Minimum | None:
    """What the note beside a log says, None without one; raises NoteError, OSError."""
    try:
        note = epochs.text(folder / MINIMUM)
    except FileNotFoundError:
        return None
    lines = note.split("\n")
    if len(lines) < 6 or lines[0] != _TITLE or not lines[3].isdigit() or len(lines[3]) > 19:
        raise NoteError("It is no minimum index.")
    lines = opened(note, ring.of(int(lines[3])).key).split("\n")
    if lines[1] != ring.origin or not lines[2].isdigit() or int(lines[2]) > int(lines[3]):
        raise NoteError("It is of another log, or makes no sense.")
    seen = Checkpoint.parse("\n".join((lines[1], lines[3], lines[4], "")))
    return Minimum(int(lines[2]), seen)
