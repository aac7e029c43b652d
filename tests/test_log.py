"""The audit log: what is acknowledged stays, what a crash tore is cut, what is damaged is told."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from bifrost.audit import events
from bifrost.audit.log import Log, Reader
from bifrost.audit.segments import SIZE, path_of, segments
from bifrost.errors import StoreError

FILLER = """
import os, resource, signal, sys
from pathlib import Path
from bifrost.audit import events
from bifrost.audit.log import Log, Reader
from bifrost.errors import StoreError

folder = Path(sys.argv[1])
log = Log(folder)
soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
resource.setrlimit(resource.RLIMIT_FSIZE, (5000, hard))
n = 0
try:
    while True:
        log.append([b'{"n":"%0100d"}' % (n + i) for i in range(7)])
        n += 7
except StoreError as error:
    print(error)
try:
    log.append([b'{"n":0}' * 100])
except StoreError as error:
    print(error)
assert log.next == n == Reader(folder).end()
resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
log.append([b'{"n":"after"}'])
assert log.next == n + 1
print(n)
"""


def entry(number: int, size: int = 30) -> bytes:
    return events.sequenced(b'{"type":"x","pad":"%s"}' % (b"p" * size), number)


def everything(folder: Path) -> list[bytes]:
    reader, found = Reader(folder), []
    while batch := reader.read(len(found), 7):
        assert [index for index, _ in batch] == list(range(len(found), len(found) + len(batch)))
        found += [payload for _, payload in batch]
    return found


def test_what_is_appended_is_read_back_over_restarts_and_segments(tmp_path: Path) -> None:
    written: list[bytes] = []
    assert Reader(tmp_path).read(0, 10) == [] and Reader(tmp_path).end() == 0
    for round_ in range(10):
        log = Log(tmp_path, segment_bytes=300)
        assert (log.next, log.last_seq) == (len(written), len(written))
        batch = [entry(len(written) + 1 + i) for i in range(round_ + 1)]
        assert log.append(batch) == len(written) and log.append([]) == log.next
        written += batch
        log.close()
    assert everything(tmp_path) == written
    starts = segments(tmp_path / "audit")
    assert len(starts) > 3 and starts[0] == 0
    reader = Reader(tmp_path)
    assert reader.starts() == starts and reader.oldest() == 0
    for start in (54, 0, 13, 27, 3):
        assert reader.read(start, 2) == list(enumerate(written))[start : start + 2]
    assert reader.read(55, 1) == reader.read(99, 1) == []


def test_the_newest_outbox_number_is_found_in_an_older_segment(tmp_path: Path) -> None:
    log = Log(tmp_path, segment_bytes=10)
    log.append([entry(7)])
    for _ in range(3):
        log.append([b'{"type":"own"}'])
    log.close()
    assert len(segments(tmp_path / "audit")) == 4
    assert Log(tmp_path).last_seq == 7


def test_a_tail_torn_at_any_byte_is_cut_and_nothing_acknowledged_is_lost(tmp_path: Path) -> None:
    log = Log(tmp_path / "a")
    for start in (1, 4, 8):
        log.append([entry(start + i) for i in range(3)])
    kept, mark = log.next, (tmp_path / "a/audit/acknowledged").read_bytes()
    size = path_of(log.folder, 0).stat().st_size
    log.append([entry(20 + i) for i in range(4)])
    log.close()
    whole = path_of(log.folder, 0).read_bytes()
    known = everything(tmp_path / "a")

    def repaired(data: bytes, end: int) -> None:
        folder = tmp_path / "b"
        shutil.rmtree(folder, ignore_errors=True)
        (folder / "audit").mkdir(parents=True)
        path_of(folder / "audit", 0).write_bytes(data)
        (folder / "audit/acknowledged").write_bytes(mark)
        assert len(everything(folder)) == kept  # readers do not look behind the mark
        log = Log(folder)
        assert kept <= log.next <= len(known) and log.last_seq in (10, 20, 21, 22, 23)
        survived = log.next
        log.append([entry(99)])
        log.close()
        assert everything(folder) == [*known[:survived], entry(99)]
        frames = (end - size) // (len(whole) - size) if end < len(whole) else 4
        assert survived - kept >= frames  # whole entries of the torn batch are kept

    for cut in range(size, len(whole) + 1):
        repaired(whole[:cut], cut)
        repaired(whole[:cut] + bytes(len(whole) - cut), cut)
    hole = whole[: size + 5] + bytes(40) + whole[size + 45 :]
    repaired(hole, size)  # a page of the last batch that did not reach the disk


@pytest.mark.parametrize("where", ["length", "crc", "index", "payload"])
@pytest.mark.parametrize("number", [0, 4, 6, 7])
def test_damage_among_acknowledged_entries_is_told_and_never_cut(
    tmp_path: Path, where: str, number: int
) -> None:
    log = Log(tmp_path, segment_bytes=400)
    places = []
    for at in range(8):
        if at % 2 == 0:
            log.append([entry(at + 1), entry(at + 2)])
    log.close()
    for first in segments(log.folder):
        data, at = path_of(log.folder, first).read_bytes(), 0
        while at < len(data):
            places.append((first, at))
            at += SIZE + (int.from_bytes(data[at : at + 4], "little") & 0x7FFFFFFF)
    first, at = places[number]
    path = path_of(log.folder, first)
    damaged = bytearray(path.read_bytes())
    damaged[at + {"length": 0, "crc": 4, "index": 8, "payload": SIZE + 9}[where]] ^= 1
    path.write_bytes(damaged)
    with pytest.raises(StoreError, match=rf"DAMAGED .* entry {number} .*{path.name}"):
        everything(tmp_path)
    if first == segments(log.folder)[-1]:
        with pytest.raises(StoreError, match=rf"DAMAGED .* entry {number} .*{path.name}"):
            Log(tmp_path)
    assert path.read_bytes() == damaged


def test_damage_is_told_without_the_mark_too(tmp_path: Path) -> None:
    log = Log(tmp_path)
    log.append([entry(1), entry(2), entry(3)])
    log.close()
    path = path_of(log.folder, 0)
    damaged = bytearray(path.read_bytes())
    damaged[SIZE + 3] ^= 1
    path.write_bytes(damaged)
    (log.folder / "acknowledged").unlink()
    with pytest.raises(StoreError, match=r"DAMAGED .* entry 0 cannot be read, but entry 1"):
        Log(tmp_path)
    assert path.read_bytes() == damaged


def _shorten(folder: Path) -> None:
    path = path_of(folder, segments(folder)[-1])
    os.truncate(path, path.stat().st_size - 1)


def _remove_last(folder: Path) -> None:
    path_of(folder, segments(folder)[-1]).unlink()


def _remove_middle(folder: Path) -> None:
    path_of(folder, segments(folder)[1]).unlink()


@pytest.mark.parametrize("harm", [_shorten, _remove_last, _remove_middle])
def test_missing_acknowledged_entries_are_told(
    tmp_path: Path, harm: Callable[[Path], None]
) -> None:
    log = Log(tmp_path, segment_bytes=100)
    for at in range(1, 6):
        log.append([entry(at)])
    log.close()
    harm(log.folder)
    with pytest.raises(StoreError, match="DAMAGED .* entry [0-9]+ .* in "):
        everything(tmp_path)
    if harm is not _remove_middle:
        with pytest.raises(StoreError, match=r"DAMAGED .* entry 4 "):
            Log(tmp_path)


def test_a_full_disk_is_a_clear_refusal_and_writing_goes_on_later(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", FILLER, tmp_path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    first, second, count = run.stdout.splitlines()
    assert first == second and "may not grow further" in first and "outbox" in first
    assert [len(raw) for raw in everything(tmp_path)][:-1] == [108] * int(count)
    assert everything(tmp_path)[-1] == b'{"n":"after"}'
    assert Log(tmp_path).next == int(count) + 1


@pytest.mark.parametrize(
    ("number", "said"),
    [(errno.ENOSPC, "the disk is full"), (errno.EROFS, "read-only"), (errno.EIO, "Input/output")],
)
def test_a_flush_that_fails_is_not_believed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: int, said: str
) -> None:
    log, flush = Log(tmp_path), os.fdatasync
    log.append([entry(1)])
    failing = [True, True]

    def fdatasync(fd: int) -> None:
        if failing:
            failing.pop()
            raise OSError(number, os.strerror(number))
        flush(fd)

    monkeypatch.setattr(os, "fdatasync", fdatasync)
    for _ in range(2):  # the second time already opening the file again fails
        with pytest.raises(StoreError, match=said):
            log.append([entry(2)])
        assert log.next == 1 and everything(tmp_path) == [entry(1)]
    assert log.append([entry(3)]) == 1
    log.close()
    assert everything(tmp_path) == [entry(1), entry(3)] and Log(tmp_path).last_seq == 3


def test_readers_see_whole_entries_while_the_log_is_written(tmp_path: Path) -> None:
    log = Log(tmp_path, segment_bytes=50_000)
    total, seen, stop = 3_000, [], threading.Event()

    def read() -> None:
        reader, got = Reader(tmp_path), 0
        while got < total and not stop.is_set():
            for index, payload in reader.read(got, 500):
                assert index == got and events.sequence(payload) == index + 1
                got += 1
        seen.append(got)

    readers = [threading.Thread(target=read) for _ in range(2)]
    for reader in readers:
        reader.start()
    for start in range(0, total, 60):
        log.append([entry(start + i + 1, 200) for i in range(60)])
    for reader in readers:
        reader.join(30)
    stop.set()
    log.close()
    assert seen == [total, total] and len(segments(log.folder)) > 5


def test_entries_are_events_and_nothing_else(tmp_path: Path) -> None:
    log = Log(tmp_path)
    with pytest.raises(ValueError, match="JSON object"):
        log.append([b"text"])
    for raw in (b'{"type":"model"}', b"\xff garbage", b"{}", b""):
        payload = events.sequenced(raw, 5)
        assert payload.startswith(b'{"seq":5,') and events.sequence(payload) == 5
        log.append([payload])
    assert log.next == 4 and [events.sequence(raw) for raw in everything(tmp_path)] == [5] * 4
    assert events.sequence(b'{"type":"model"}') == events.sequence(b'{"seq":x,') == 0


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "audit").write_bytes(b"")
    with pytest.raises(StoreError, match="Cannot write the audit log"):
        Log(tmp_path)


def test_every_kind_of_event_survives_the_log() -> None:
    kinds: list[events.Event] = [
        events.ModelAccess(at=1, request="r", key="k", outcome="ok", cost=3),
        events.PolicyChange(at=1, actor="cli:ann", action="create", kind="team", id="t", name="n",
                            after="ab"),
        events.BudgetReached(at=1, budget="b", level="team", id="t", name="n", window_start=0,
                             window_end=9, threshold=80, limit=10, settled=8),
        events.Reconciled(at=1, done_at=2, request="r", key="k", before=9, cost=-4, actor="a"),
        events.PriceChange(at=1, actor="config", digest="d", changes=("a", "b")),
    ]  # fmt: skip
    for event in kinds:
        stored = events.decode(events.sequenced(events.encode(event), 77))
        event.seq = 77
        assert stored == event
