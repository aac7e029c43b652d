"""Retention: archived, read back, removed when its time is over; nothing lost at any step."""

from __future__ import annotations

import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path

import pytest

from bifrost.audit import holds, parts
from bifrost.audit.depots import DepotError
from bifrost.audit.log import Log, Reader
from bifrost.audit.parts import Parts
from bifrost.audit.proofs import check, prove
from bifrost.audit.segments import path_of, segments
from bifrost.audit.verify import Verification
from bifrost.config.evidence import Archive
from bifrost.errors import BifrostError, NotFound, StoreError
from tests.evidence import Scribe, entry, examined, public, resigned, rewritten, stolen
from tests.keeping import Keeping, copy, entries, expire, judged


@pytest.fixture
def keeping(tmp_path: Path) -> Iterator[Keeping]:
    built = Keeping(tmp_path, archive_after="90d")
    built.fill()
    yield built
    built.close()


def test_old_segments_go_to_the_archive_and_all_can_still_be_read(keeping: Keeping) -> None:
    folder = keeping.folder
    before, kept = entries(folder), (folder / "checkpoint").read_text()
    many = segments(folder)
    keeping.settle()
    assert segments(folder) == many  # too young
    keeping.age()
    keeping.settle()
    assert segments(folder)[0] == many[-1]
    archived = Parts(folder).archived()
    assert [first for first, _ in archived] == many[:-1]
    assert len(list((folder / "archive").rglob("*.log.zst"))) == len(many) - 1
    steps = keeping.steps()
    assert [(one.action, one.first, one.end) for one in steps] == [
        ("archive", first, end) for first, end in archived
    ]
    assert entries(folder)[: len(before)] == before
    verdict = judged(folder, kept=kept, key=public(folder))
    assert verdict.intact and verdict.checked == verdict.size and not verdict.unread
    for index in (0, many[1], many[-1] - 1, many[-1]):
        proven = check(prove(folder, index), public(folder))
        assert (proven.index, proven.entry) == before[index]
    since = Verification(folder, kept=kept).since()
    assert since.intact


def test_the_writer_goes_on_behind_what_is_archived(keeping: Keeping, tmp_path: Path) -> None:
    keeping.add([b'{"seq":4711,"n":1}'])
    keeping.log.seal()
    keeping.sign()
    keeping.age()
    keeping.settle()
    end = keeping.log.next
    keeping.close()
    again = Log(tmp_path)
    assert (again.next, again.last_seq) == (end, 4711)
    again.close()


def test_what_was_changed_in_the_archive_is_found(keeping: Keeping, tmp_path: Path) -> None:
    keeping.age()
    keeping.settle()
    keeping.close()
    victim = sorted((keeping.folder / "archive").rglob("*.zst"))[2]
    first = Parts(keeping.folder).archived()[2][0]
    whole = victim.read_bytes()
    victim.chmod(0o600)
    for at in (5, len(whole) // 2, len(whole) - 3):
        victim.write_bytes(whole[:at] + bytes([whole[at] ^ 1]) + whole[at + 1 :])
        parts._unpacked.clear()
        verdict = examined(keeping.folder)
        assert not verdict.intact and verdict.first_bad is not None
        assert verdict.first_bad >= first
    manifest = Parts(keeping.folder).manifest(first)
    assert manifest is not None
    forged = parts.unpacked(manifest, whole).replace(b'{"n":%d,' % (first + 3), b'{"n":999,')
    victim.write_bytes(parts.pack(forged))
    parts._unpacked.clear()
    assert examined(keeping.folder).first_bad in (first, first + 3)
    victim.unlink()
    parts._unpacked.clear()
    assert examined(keeping.folder).first_bad == first
    assert Verification(keeping.folder).quick().first_bad == first
    with pytest.raises(StoreError, match="DAMAGED.*missing from the archive"):
        Reader(tmp_path).read(first, 1)


def test_an_archive_out_of_reach_is_said_and_the_rest_is_proved(
    tmp_path: Path, capsys: object
) -> None:
    place = tmp_path / "elsewhere"
    place.mkdir()
    keeping = Keeping(tmp_path / "data", archive_after="1d", archive=Archive(directory=str(place)))
    keeping.fill()
    keeping.age()
    keeping.settle()
    keeping.close()
    assert examined(keeping.folder).unread == 0
    place.rename(tmp_path / "unmounted")
    parts._unpacked.clear()
    verdict = examined(keeping.folder)
    low = segments(keeping.folder)[0]
    assert verdict.intact and verdict.unread == low and verdict.checked == verdict.size - low
    assert any("is not there" in sentence for sentence in verdict.not_proved)
    assert Verification(keeping.folder).quick().unread == low
    with pytest.raises(DepotError, match="mount its volume"):
        Reader(tmp_path / "data").read(0, 1)
    assert Reader(tmp_path / "data").read(low, 1)
    path = path_of(keeping.folder, low)
    data = bytearray(path.read_bytes())
    data[-2] ^= 1
    path.write_bytes(data)
    assert not examined(keeping.folder).intact


def test_an_archive_that_is_away_stops_nothing(tmp_path: Path) -> None:
    place = tmp_path / "elsewhere"
    keeping = Keeping(tmp_path / "data", archive_after="1d", archive=Archive(directory=str(place)))
    keeping.fill()
    keeping.age()
    many = segments(keeping.folder)
    keeping.step()
    keeping.step()
    assert "mount its volume" in keeping.trouble and not place.exists()
    keeping.fill(2)
    assert segments(keeping.folder)[: len(many)] == many
    place.mkdir()
    keeping.settle()
    assert not keeping.trouble and len(segments(keeping.folder)) <= 2
    assert examined(keeping.folder).intact
    keeping.close()


def test_what_the_archive_holds_already_is_not_believed(keeping: Keeping) -> None:
    keeping.age()
    first, end = segments(keeping.folder)[:2]
    name = parts.object_name(keeping.notary.origin, first, end)
    squatter = keeping.folder / "archive" / name
    squatter.parent.mkdir(parents=True)
    squatter.write_bytes(parts.pack(b"something else"))
    keeping.step()
    keeping.step()
    assert "does not give back" in keeping.trouble
    assert segments(keeping.folder)[0] == first
    squatter.unlink()
    keeping.settle()
    assert examined(keeping.folder).intact and segments(keeping.folder)[0] > end


def test_a_segment_that_was_changed_is_not_archived(keeping: Keeping) -> None:
    keeping.age()
    path = path_of(keeping.folder, segments(keeping.folder)[0])
    data = bytearray(path.read_bytes())
    data[200] ^= 1
    path.write_bytes(data)
    keeping.age()
    keeping.step()
    keeping.step()
    assert "not those that were signed" in keeping.trouble and path.exists()


def test_entries_whose_time_is_over_are_removed_and_the_rest_is_proved(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, archive_after="30d", duration="365d")
    keeping.fill()
    folder, key = keeping.folder, public(keeping.folder)
    old = (folder / "checkpoint").read_text()
    keeping.age(-31 * 86_400)
    keeping.settle()
    before = entries(folder)
    least = Parts(folder).archived()[3][0]
    expire(folder, least)
    keeping.fill(3)
    keeping.settle()
    keeping.settle()
    assert Parts(folder).minimum() == least == Reader(tmp_path).oldest()
    assert [one.action for one in keeping.steps()].count("prune") == 1
    prune = next(one for one in keeping.steps() if one.action == "prune")
    assert (prune.first, prune.end) == (0, least)
    assert Parts(folder).archived()[0][0] == least
    assert len(list((folder / "archive").rglob("*.zst"))) == len(Parts(folder).archived())
    verdict = judged(folder, kept=old, key=key)
    assert verdict.intact and verdict.minimum == least
    assert verdict.checked == verdict.size - least
    left = entries(folder)
    assert left[: len(before) - least] == before[least:]
    assert check(prove(folder, least), key).entry == before[least][1]
    with pytest.raises(NotFound, match=f"Entry 0 was removed.*begins with {least}"):
        prove(folder, 0)
    forged = copy(folder, tmp_path / "forged")
    note = (forged / "minimum").read_text()
    (forged / "minimum").write_text(note.replace(f"\n{least}\n", f"\n{least + 1}\n"))
    assert not examined(forged).intact
    (forged / "minimum").unlink()
    assert examined(forged).first_bad == 0
    (forged / "minimum").write_text(note)
    assert examined(forged).intact
    keeping.close()


def test_no_file_time_makes_us_sign_that_entries_had_to_go(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, archive_after="30d", duration="365d")
    then = time.time_ns() - 31 * 86_400 * 10**9
    for _ in range(8):
        keeping.add([b'{"at":%d,"pad":"%s"}' % (then, b"x" * 900)] * 5)
    keeping.sign()
    keeping.age(-31 * 86_400)
    keeping.settle()
    assert Parts(keeping.folder).archived()
    expire(keeping.folder, 1 << 60)
    keeping.settle()
    assert Parts(keeping.folder).minimum() == 0 and not keeping.trouble
    assert examined(keeping.folder).intact
    keeping.close()


def test_a_thief_who_rewrote_what_was_then_removed_is_found(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, duration="365d")
    keeping.fill(10)
    kept, folder = (keeping.folder / "checkpoint").read_text(), keeping.folder
    keeping.close()
    rows = [raw for _, raw in entries(folder)]
    honest = [sha256(b"\0" + one).digest() for one in rows]
    rewritten(folder, [*rows[:3], entry(999), *rows[4:]])
    resigned(folder, stolen(folder))
    assert not examined(folder, kept=kept).intact
    thief = Keeping(tmp_path, duration="365d")
    thief.fill(50)
    thief.age()
    thief.settle()
    assert Parts(folder).minimum() > 256
    thief.close()
    assert examined(folder).intact
    found = examined(folder, kept=kept)
    assert "has another root" in found.findings[0].what
    leaves = folder / "tile" / "0" / "000000"
    forged = leaves.read_bytes()
    leaves.write_bytes(b"".join(honest) + forged[len(honest) * 32 :])
    assert "stored tree was altered" in str(examined(folder, kept=kept).findings)


def test_no_byte_of_an_archived_part_changes_unseen(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, archive_after="30d", segment_bytes=600)
    keeping.fill(3)
    keeping.age()
    keeping.settle()
    keeping.close()
    [first, second] = sorted((keeping.folder / "archive").rglob("*.zst"))[:2]
    whole, other = first.read_bytes(), second.read_bytes()
    manifest = Parts(keeping.folder).manifest(0)
    assert manifest is not None
    right = parts.unpacked(manifest, whole)
    first.chmod(0o600)
    for at in range(len(whole)):
        changed = whole[:at] + bytes([whole[at] ^ (1 << at % 8)]) + whole[at + 1 :]
        first.write_bytes(changed)
        parts._unpacked.clear()
        verdict = examined(keeping.folder)
        if verdict.intact:  # a bit that means nothing to zstd: the entries are the same
            assert parts.unpacked(manifest, changed) == right
        else:
            assert verdict.first_bad is not None and verdict.first_bad < manifest.end
    first.write_bytes(other)
    parts._unpacked.clear()
    assert examined(keeping.folder).first_bad == 0


def test_without_an_archive_segments_are_removed_where_they_are(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, duration="365d")
    keeping.fill()
    many = segments(keeping.folder)
    keeping.age(-300 * 86_400)
    keeping.settle()
    assert segments(keeping.folder) == many
    keeping.age()
    keeping.settle()
    assert Parts(keeping.folder).minimum() == many[-1]
    assert segments(keeping.folder)[0] == many[-1]
    assert judged(keeping.folder).intact
    keeping.close()
    again = Scribe(tmp_path)
    again.add([entry(7)])
    again.sign()
    again.close()
    assert examined(keeping.folder).intact


def test_the_steward_does_not_wait_for_a_hold_that_waits_for_the_steward(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, duration="365d")
    keeping.fill()
    keeping.age()
    while keeping.keeper._removing is None:
        keeping.step()
    with holds.guarded(keeping.folder):
        keeping.step()
        assert Parts(keeping.folder).minimum() == 0 and keeping.trouble == ""
    keeping.settle()
    assert Parts(keeping.folder).minimum() > 0 and judged(keeping.folder).intact
    assert [one.action for one in keeping.steps()] == ["prune"]
    keeping.close()


def test_a_hold_keeps_everything(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, duration="365d", archive_after="30d")
    keeping.fill()
    recorded: list[str] = []
    holds.add(keeping.folder, "case-7", "cli:ann", "a suit", lambda: recorded.append("hold"))
    keeping.age()
    keeping.settle()
    assert Parts(keeping.folder).minimum() == 0 and len(Parts(keeping.folder).archived()) > 3
    assert [one.name for one in holds.holds(keeping.folder)] == ["case-7"]
    expire(keeping.folder, 1 << 60)
    keeping.settle()
    assert Parts(keeping.folder).minimum() == 0
    with pytest.raises(BifrostError, match="already"):
        holds.add(keeping.folder, "case-7", "cli:bob", "", lambda: None)
    holds.release(keeping.folder, "case-7", lambda: recorded.append("release"))
    with pytest.raises(NotFound):
        holds.release(keeping.folder, "case-7", lambda: None)
    keeping.settle()
    keeping.settle()
    assert Parts(keeping.folder).minimum() > 0 and not Parts(keeping.folder).archived()
    assert recorded == ["hold", "release"] and judged(keeping.folder).intact
    keeping.close()


def test_a_hold_that_cannot_be_recorded_is_not_set(tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()

    def refuse() -> None:
        raise StoreError("full")

    with pytest.raises(StoreError, match="full"):
        holds.add(folder, "x", "cli:ann", "", refuse)
    assert holds.holds(folder) == []
    holds.add(folder, "x", "cli:ann", "", lambda: None)
    with pytest.raises(StoreError, match="full"):
        holds.release(folder, "x", refuse)
    assert len(holds.holds(folder)) == 1


def test_an_idle_log_is_sealed_by_age(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, archive_after="1d", duration="10d")
    keeping.fill(1)
    keeping.settle()
    assert segments(keeping.folder) == [0]
    keeping.log.began = time.time_ns() - 86_400 * 10**9
    keeping.step()
    assert segments(keeping.folder) == [0, 10]
    keeping.age(-2 * 86_400)
    keeping.settle()
    assert segments(keeping.folder) == [10] and Parts(keeping.folder).archived() == [(0, 10)]
    keeping.close()
    again = Scribe(tmp_path)
    assert again.add([entry(10)]) == 11  # behind the entry on the archive
    again.close()
