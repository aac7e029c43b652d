"""The keeper: archives sealed segments, removes entries whose time is over. The steward employs it.

Slow work (packing, sending, reading back) is done in a thread; whatever changes the log is a short
step of the steward. Each step can be repeated, so a crash between any two loses nothing:

- archive: the part is in the depot and was read back; that is an entry of the log; the manifest is
  beside the log; only then the segment goes.
- remove: that it will be is an entry, and signed; a signed note says what the minimum index is;
  only then segments and parts go, as far as locks permit.
"""

from __future__ import annotations

import hashlib
import logging
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import NamedTuple

import msgspec

from bifrost.audit import depots, events, holds
from bifrost.audit.log import Log, Reader
from bifrost.audit.merkle import leaf
from bifrost.audit.notary import Notary
from bifrost.audit.parts import FOLDER as ARCHIVED
from bifrost.audit.parts import LAST, MINIMUM, Manifest, Parts, is_whole, object_name, pack
from bifrost.audit.segments import hashed, path_of, segments
from bifrost.audit.task import Append, Step, Task
from bifrost.audit.tiles import Tiles, sync_folder, write_whole
from bifrost.config.evidence import Retention
from bifrost.errors import BifrostError, StoreError

log = logging.getLogger("bifrost.audit")
EVERY_S = 5.0  # between two looks while nothing is under way
RETRY_S = 60.0  # after a failure
LOCKED_S = 3600.0  # until what may not be removed yet is tried again
SOON_S = 0.2  # when something waits to be signed
STRIDE = 2048
DAY_NS = 86_400_000_000_000
SHORTEST_NS = 1_000_000_000
TROUBLE = "retention-trouble"
SAYING = "saying"  # at which index the entry of the part that is being archived will be
Unsent = Callable[[], Mapping[str, int]]  # of each export, the index it has to send next


class Limits(NamedTuple):
    """Until when an entry may have happened to be let go; in ns, by whether exports sent it.

    A time before all times lets none go.
    """

    sent: int
    unsent: int
    first_unsent: int | None

    def of(self, end: int) -> int:
        """The limit of entries to before index ``end``."""
        waits = self.first_unsent is not None and end > self.first_unsent
        return self.unsent if waits else self.sent


class Keeper:
    """Keeps one log for as long as it has to be kept, where it has to be kept."""

    def __init__(
        self,
        writer: Log,
        notary: Notary,
        retention: Retention,
        *,
        unsent: Unsent = dict,
        every_s: float = EVERY_S,
    ) -> None:
        """``unsent()`` raises StoreError if it cannot be told; then nothing is removed."""
        self._log = writer
        self._unsent = unsent
        self._folder = writer.folder
        self._parts = Parts(writer.folder)
        self._reader = Reader(writer.folder.parent)
        self._notary = notary
        self._retention = retention
        self._every_s = every_s
        self._due = 0.0
        self._task: Task | None = None
        self._removing: tuple[int, int] | None = None  # the minimum to be, the entry that says so
        self._unripe = 0.0  # until when nothing is found old enough
        self._undone = False  # a task failed and is to be tried again
        self._patience = 0.0  # until when parts under a lock are left alone

    # -- the steward's steps -------------------------------------------------------------------

    def work(self, append: Append) -> int:
        """Does what is due; ``append`` adds entries to the log. What fails is told and waits."""
        task = self._task
        if task is not None and not task.done or task is None and time.monotonic() < self._due:
            return 0
        self._task, self._due = None, time.monotonic() + self._every_s
        try:
            if task is not None:
                task.finish(append)
            self._seal()
            self._remove(append)
            self._task = self._task or self._next()
            if task is not None or not self._undone:
                self._told("")
        except (BifrostError, OSError) as error:
            self._due = time.monotonic() + RETRY_S
            self._undone = task is not None
            self._told(str(error))
        return 0

    def close(self) -> None:
        """Leaves what is under way; the next steward begins it anew."""
        if self._task is not None:
            self._task.join(2.0)

    def _told(self, trouble: str) -> None:
        """Notes what keeps us from working, for whoever asks how the log is."""
        path = self._folder / TROUBLE
        self._undone = self._undone and bool(trouble)
        try:
            if trouble:
                log.error("the audit log cannot be archived or pruned", extra={"error": trouble})
                write_whole(path, trouble.encode())
            else:
                path.unlink(missing_ok=True)
        except OSError as error:
            log.error("a trouble cannot be noted", extra={"error": str(error)})

    def _seal(self) -> None:
        """Lets no segment grow for so long that its first entries are kept much too long."""
        ages = [self._retention.duration_ns, self._retention.archive_after_ns]
        most = max(SHORTEST_NS, min([DAY_NS, *(age // 8 for age in ages if age)]))
        if self._log.began and time.time_ns() - self._log.began > most:
            self._log.seal()

    def _sealed(self) -> Iterator[tuple[int, int, int]]:
        """First, end and newest time of the segments that are sealed, signed and beside us."""
        local = segments(self._folder)
        for first, end in zip(local, local[1:], strict=False):
            if end > self._notary.covered:
                return
            newest = path_of(self._folder, first).stat().st_mtime_ns
            for _, entry in self._reader.read(end, 1):  # logged later, whatever a file's time is
                newest = max(newest, events.time_of(entry))
            yield first, end, newest

    def _next(self) -> Task | None:
        """The slow work that is due, begun."""
        after, now = self._retention.archive_after_ns, time.time_ns()
        least = self._parts.minimum()
        if after is not None:
            found = next(self._sealed(), None)
            if found is not None and found[1] > least and found[2] + after <= now:
                return Task(lambda: self._archive(*found))
        done_with = [one for one in self._parts.archived() if one[1] <= least]
        if done_with and time.monotonic() >= self._patience and not holds.holds(self._folder):
            return Task(lambda: self._discard(done_with))
        return None

    # -- archiving -----------------------------------------------------------------------------

    def _archive(self, first: int, end: int, newest: int) -> Step:
        """Puts a segment into the depot and reads it back. In a thread; nothing here is changed."""
        depot = depots.configured(self._retention.archive, self._folder)
        data = path_of(self._folder, first).read_bytes()
        self._compare(data, first, end)
        origin, root = self._notary.origin, Tiles(self._folder).root(end).hex()
        duration = self._retention.duration_ns
        manifest = Manifest(
            origin=origin, first=first, end=end, size=len(data), root=root, newest=newest,
            sha256=hashlib.sha256(data).hexdigest(), packed=0, packed_sha256="",
            until=newest + duration if duration and depot.locks else 0,
            name=object_name(origin, first, end), depot=depot.address,
        )  # fmt: skip
        depot.put(manifest.name, pack(data), manifest.until)
        found = depot.get(manifest.name)
        if found is None or not is_whole(manifest, found.data):
            raise StoreError(
                f"The archive {depot.address} does not give back {manifest.name} as it was stored:"
                " the segment stays here. Move away what is there under that name."
            )
        manifest = msgspec.structs.replace(
            manifest, packed=len(found.data), version=found.version,
            packed_sha256=hashlib.sha256(found.data).hexdigest(),
        )  # fmt: skip
        depot.put(manifest.note_name, msgspec.json.encode(manifest), manifest.until)
        note = depot.get(manifest.note_name)
        if note is None or b'"sha256":"%b"' % manifest.sha256.encode() not in note.data:
            raise StoreError(
                f"The archive {depot.address} holds another manifest {manifest.note_name}; move it"
                " away."
            )
        manifest = msgspec.structs.replace(manifest, note_version=note.version)
        return lambda append: self._archived(manifest, append)

    def _compare(self, data: bytes, first: int, end: int) -> None:
        """Archives only what was signed: a segment that was changed stays, as evidence."""
        tiles, at, index = Tiles(self._folder), 0, first
        while index < end:
            row, at, upto = hashed(data, at, index, min(index + STRIDE, end))
            if not row or row != tiles.hashes(0, index, upto - index):
                raise StoreError(
                    f"DAMAGED audit log: entries from {index} on are not those that were signed;"
                    " they are not archived. `bifrost audit verify` names the first."
                )
            index = upto
            time.sleep(0.001)  # the steward shares our interpreter

    def _archived(self, manifest: Manifest, append: Append) -> None:
        """Records that a part is in the depot, then lets the segment go."""
        present = self._parts.manifest(manifest.first)
        if present is None or present.depot != manifest.depot:
            step = events.RetentionStep(
                at=time.time_ns(), actor="gateway", action="archive", first=manifest.first,
                end=manifest.end, sha256=manifest.sha256, depot=manifest.depot,
                until=manifest.until, name=manifest.name,
            )  # fmt: skip
            self._say(step, append)
            self._note_last()
            write_whole(
                self._parts.path(manifest.first, manifest.end), msgspec.json.encode(manifest)
            )
            self._saying.unlink(missing_ok=True)
        path_of(self._folder, manifest.first).unlink()
        sync_folder(self._folder)

    @property
    def _saying(self) -> Path:
        return self._folder / ARCHIVED / SAYING

    def _say(self, step: events.RetentionStep, append: Append) -> None:
        """Adds the entry, unless a keeper did that was killed before it noted the manifest.

        Where the entry will be is noted first, so that reading one tells whether it is there.
        """
        self._make_place()
        if not self._is_said(step):
            write_whole(self._saying, b"%d" % self._log.next)
            append([events.encode(step)])

    def _is_said(self, step: events.RetentionStep) -> bool:
        try:
            [(_, entry)] = self._reader.read(int(self._saying.read_bytes()), 1)
            found = events.decode(entry)
        except (FileNotFoundError, ValueError):  # nothing noted, nothing there, or no event
            return False
        return (
            isinstance(found, events.RetentionStep)
            and msgspec.structs.replace(found, at=step.at) == step
        )

    def _make_place(self) -> None:
        place = self._folder / ARCHIVED
        if not place.is_dir():
            place.mkdir(mode=0o700)
            sync_folder(self._folder)

    def _note_last(self) -> None:
        """The next writer has to know how far the outbox was read, whatever goes away."""
        self._make_place()
        write_whole(self._folder / ARCHIVED / LAST, b"%d" % self._log.last_seq)

    # -- removing ------------------------------------------------------------------------------

    def _remove(self, append: Append) -> None:
        """Raises the minimum index: says so in the log, and once that is signed does it."""
        least = self._parts.minimum()
        if least:
            self._drop(least)
        removing, self._removing = self._removing, None
        if removing is not None and self._notary.covered <= removing[1]:
            self._removing = removing
        elif removing is not None:
            self._removing = None if self._raise_minimum(removing[0]) else removing
        elif time.monotonic() < self._unripe or holds.holds(self._folder):
            return
        elif ends := self._expired(least):
            self._task = Task(lambda: self._prune(least, ends))
        if self._removing is not None:
            self._due = min(self._due, time.monotonic() + SOON_S)

    def _expired(self, least: int) -> list[int]:
        """The ends of parts and segments whose time is over, as far as manifests and files say."""
        if self._retention.duration_ns is None:
            return []
        limits = self._limits()
        ends: list[int] = []
        for first, end in self._parts.archived():
            manifest = self._parts.manifest(first) if end > least else None
            if manifest is not None:
                if manifest.newest > limits.of(end):
                    return ends
                ends.append(end)
        for _, end, newest in self._sealed():
            if newest > limits.of(end):
                break
            if end not in ends:
                ends.append(end)
        return ends

    def _limits(self) -> Limits:
        limit, waits = time.time_ns() - (self._retention.duration_ns or 0), self._retention.waits_ns
        unsent = -1 if waits is None else limit - waits
        return Limits(limit, unsent, min(self._unsent().values(), default=None))

    def _prune(self, least: int, ends: list[int]) -> Step:
        """Lets go what is old by the word of its last entry, which is signed. In a thread.

        Otherwise whoever changes the time of a file could have us sign that entries had to go.
        """
        limits, upto = self._limits(), least
        tiles, reader = Tiles(self._folder), Reader(self._folder.parent)
        for end in ends:
            [(_, entry)] = reader.read(end - 1, 1)
            if leaf(entry) != tiles.hashes(0, end - 1, 1):
                raise StoreError(
                    f"DAMAGED audit log: entry {end - 1} is not the one that was signed; nothing is"
                    " removed. `bifrost audit verify` says what was changed."
                )
            if events.time_of(entry) > limits.of(end):
                break
            upto = end

        def finished(append: Append) -> None:
            if upto == least:  # files and entries do not agree: not asked all the time
                self._unripe = time.monotonic() + LOCKED_S
            elif not holds.holds(self._folder):
                step = events.RetentionStep(
                    at=time.time_ns(), actor="gateway", action="prune", first=least, end=upto,
                    reason=f"older than {self._retention.duration}",
                )  # fmt: skip
                told: list[events.Event] = [*self._passed_over(least, upto), step]
                index = append([events.encode(one) for one in told])
                self._removing = upto, index + len(told) - 1

        return finished

    def _passed_over(self, least: int, upto: int) -> list[events.Exported]:
        """Which exports have not sent what is about to go: a loss of theirs that is never silent.

        Said here, as they may never come back to say it themselves.
        """
        return [
            events.Exported(
                at=time.time_ns(), actor="gateway", action="passed_over", sink=sink,
                first=max(position, least), count=upto - max(position, least),
                reason=f"not sent {self._retention.wait_for_exports or '0s'} after their time",
            )
            for sink, position in sorted(self._unsent().items())
            if position < upto
        ]  # fmt: skip

    def _raise_minimum(self, upto: int) -> bool:
        """False: somebody sets a hold now. He waits for our steward, so we do not wait for him."""
        try:
            with holds.guarded(self._folder, wait=False):
                note = None if holds.holds(self._folder) else self._notary.minimum(upto)
                if note is not None:
                    self._note_last()
                    write_whole(self._folder / MINIMUM, note.encode(), 0o644)
        except BlockingIOError:
            return False
        if note is not None:
            self._drop(upto)
            log.info("entries of the audit log were removed", extra={"before": upto})
        return True

    def _drop(self, least: int) -> None:
        """Removes the segments beside us of which no entry is kept."""
        local = segments(self._folder)
        for first, end in zip(local, local[1:], strict=False):
            if end <= least:
                path_of(self._folder, first).unlink(missing_ok=True)

    def _discard(self, done_with: list[tuple[int, int]]) -> Step:
        """Removes parts from the depot, as far as locks permit. In a thread."""
        locked = False
        depots.configured(self._retention.archive, self._folder)  # for its credentials
        for first, end in done_with:
            manifest = self._parts.manifest(first)
            if manifest is None or holds.holds(self._folder):
                break
            depot = self._parts.depot(manifest)
            gone = depot.remove(manifest.name, manifest.version)
            if gone and depot.remove(manifest.note_name, manifest.note_version):
                self._parts.path(first, end).unlink(missing_ok=True)
            else:
                locked = True

        def finished(_: Append) -> None:
            self._patience = time.monotonic() + LOCKED_S if locked else 0.0

        return finished
