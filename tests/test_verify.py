"""Tampering with a log: whatever was signed cannot be changed unseen, and the first bad entry is
named; what a verification cannot know it says."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from bifrost.audit.merkle import EMPTY
from bifrost.audit.notes import Checkpoint, NoteError
from bifrost.audit.proofs import check, prove
from bifrost.audit.segments import SIZE, path_of, segments
from bifrost.audit.verdict import Damaged, Verdict
from bifrost.audit.verify import Verification
from bifrost.errors import NotFound, StoreError
from tests.evidence import (
    Scribe,
    all_files,
    copied,
    entry,
    examined,
    payloads,
    public,
    resigned,
    rewritten,
    stolen,
    written,
)


def small(data_dir: Path) -> Path:
    """Three segments, two keys, one entry that no checkpoint covers."""
    scribe = Scribe(data_dir, segment_bytes=100, epoch_s=0)
    scribe.add([b'{"n":0}', b'{"n":1}'])
    scribe.sign()
    scribe.close()
    scribe = Scribe(data_dir, segment_bytes=100)
    scribe.add([b'{"n":3}'])
    scribe.sign()
    scribe.add([b'{"n":4}'])
    scribe.close()
    return data_dir / "audit"


def seen(folder: Path) -> Verdict | None:
    """The verdict, None if keys or checkpoint cannot even be read."""
    try:
        return examined(folder, key=None)
    except Damaged:
        return None


@pytest.mark.parametrize("part", ["segments", "checkpoint", "tile", "keys-1", "keys-2", "last"])
def test_every_flipped_bit_is_seen(tmp_path: Path, part: str) -> None:
    if part == "segments":
        folder = written(tmp_path, 4, unsigned=1, segment_bytes=60)
    else:
        folder = small(tmp_path)
    assert examined(folder).intact and examined(folder).not_covered == 1
    files = {
        "segments": [path_of(folder, first) for first in segments(folder)],
        "checkpoint": [folder / "checkpoint"],
        "tile": all_files(folder / "tile"),
        "keys-1": [folder / "keys/0001"],
        "keys-2": [folder / "keys/0002"],
        "last": [folder / "keys/0001.last"],
    }[part]
    # Of the keys' texts two bits of a byte: its lowest, and that of upper and lower case.
    bits = range(8) if part in ("segments", "checkpoint", "tile") else (0, 5)
    missed = []
    for path in files:
        whole = path.read_bytes()
        for at in range(len(whole)):
            for bit in bits:
                path.write_bytes(whole[:at] + bytes([whole[at] ^ 1 << bit]) + whole[at + 1 :])
                verdict = seen(folder)
                index = _entry_at(path, whole, at) if part == "segments" else None
                right = verdict is None or (not verdict.intact and verdict.first_bad == index)
                if part not in ("segments", "tile"):  # a size may be flipped to a smaller one
                    right = verdict is None or not verdict.intact
                if not right:
                    missed.append((path.name, at, bit, verdict))
        path.write_bytes(whole)
    # A final newline of the first key, which is no part of it, is the only byte without meaning.
    assert [one for one in missed if one[:2] != ("0001", len(whole) - 1)] == []
    assert examined(folder).intact


def _entry_at(path: Path, data: bytes, at: int) -> int:
    index, place = int(path.stem), 0
    while place <= at:
        place += SIZE + (int.from_bytes(data[place : place + 4], "little") & 0x7FFFFFFF)
        index += 1
    return index - 1


DEEDS: dict[str, Callable[[list[bytes], int], None]] = {
    "changed": lambda rows, at: rows.__setitem__(at, rows[at].replace(b'"pad":""', b'"pad":"!"')),
    "deleted": lambda rows, at: rows.__delitem__(at),
    "swapped": lambda rows, at: rows.__setitem__(slice(at, at + 2), [rows[at + 1], rows[at]]),
    "inserted": lambda rows, at: rows.insert(at, entry(999)),
    "duplicated": lambda rows, at: rows.insert(at, rows[at]),
    "truncated": lambda rows, at: rows.__delitem__(slice(at, None)),
}


@pytest.mark.parametrize("deed", DEEDS)
@pytest.mark.parametrize("count", [12, 700])
def test_every_entry_that_is_touched_is_named(tmp_path: Path, deed: str, count: int) -> None:
    folder = written(tmp_path, count, unsigned=2)
    rows = payloads(folder)
    assert len(rows) == count + 2
    step = 1 if count < 100 else 133
    for at in range(0, count, step):
        changed = list(rows)
        DEEDS[deed](changed, at)
        rewritten(folder, changed)
        verdict = examined(folder)
        first = at + 1 if deed == "duplicated" else at
        if first == count:  # a copy of the last signed entry behind it: nobody signed what is there
            assert verdict.intact and verdict.not_covered == 3
        else:
            assert not verdict.intact and verdict.first_bad == first
            quick = Verification(folder).quick()
            assert not quick.intact and quick.first_bad == first
    rewritten(folder, rows)
    assert examined(folder).intact


def test_what_is_not_covered_is_said(tmp_path: Path) -> None:
    folder = written(tmp_path, 10, unsigned=3)
    rows = payloads(folder)
    rewritten(folder, [*rows[:10], entry(77), rows[11]])
    verdict = examined(folder)
    assert verdict.intact and verdict.not_covered == 2
    assert "2 entries from 10 on" in str(verdict.not_proved)
    assert "cut back" in str(verdict.not_proved) and "--public-key" in str(verdict.not_proved)
    other = written(tmp_path / "b", 10, unsigned=3)
    path = path_of(other, 0)
    path.write_bytes(path.read_bytes()[:-1])  # acknowledged, though no checkpoint covers it
    verdict = examined(other)
    assert not verdict.intact and verdict.first_bad == 12


def test_segments_that_are_missing_or_moved_are_named(tmp_path: Path) -> None:
    folder = written(tmp_path, 30, segment_bytes=150)
    starts = segments(folder)
    assert len(starts) > 4
    for number, first in enumerate(starts):
        other = copied(folder, tmp_path / "copy")
        path_of(other, first).unlink()
        assert examined(other).first_bad == first
        if number + 1 < len(starts):
            other = copied(folder, tmp_path / "copy")
            path = path_of(other, first)
            path.write_bytes(path.read_bytes() + path_of(other, starts[number + 1]).read_bytes())
            assert examined(other).first_bad == starts[number + 1]


def test_one_process_or_several_find_the_same(tmp_path: Path) -> None:
    folder = written(tmp_path, 600, segment_bytes=700)
    done: list[int] = []
    verdict = Verification(folder).whole(done.append, processes=2)
    assert verdict.intact and sum(done) == 600 == verdict.checked
    path = path_of(folder, segments(folder)[3])
    path.write_bytes(path.read_bytes()[:-1] + b"]")
    alone, together = examined(folder), Verification(folder).whole(processes=2)
    assert alone == together and not alone.intact and alone.first_bad is not None


def test_a_tree_altered_with_the_entries_hides_only_which(tmp_path: Path) -> None:
    folder = written(tmp_path, 20)
    note = (folder / "checkpoint").read_text()
    rows = payloads(folder)
    rows[7] = entry(999)
    rewritten(folder, rows)
    resigned(folder, stolen(folder))
    (folder / "checkpoint").write_text(note)
    verdict = examined(folder)
    assert not verdict.intact and verdict.first_bad is None
    assert "which of the entries 0 to 19" in str(verdict.findings)


def test_rollback_and_signing_again_are_seen_with_a_kept_checkpoint(tmp_path: Path) -> None:
    folder = written(tmp_path, 20)
    old = copied(folder, tmp_path / "old")
    scribe = Scribe(tmp_path)
    scribe.add([entry(20 + i) for i in range(10)])
    scribe.sign()
    scribe.close()
    key, kept = public(folder), (folder / "checkpoint").read_text()
    verdict = examined(folder, kept=kept, key=key)
    assert verdict.intact and verdict.not_proved == []
    assert "30 entries of your checkpoint" in str(verdict.proved)
    assert examined(folder, kept=(old / "checkpoint").read_text()).intact
    assert examined(old).intact  # alone nobody can know that there was more
    verdict = examined(old, kept=kept, key=key)
    assert not verdict.intact and verdict.first_bad == 20 and "cut back" in str(verdict.findings)

    rows = payloads(folder)
    rows[5] = entry(999)
    rewritten(folder, rows)
    resigned(folder, stolen(folder))
    assert examined(folder, key=key).intact  # by whoever holds the key: not seen alone
    for known in (kept, (old / "checkpoint").read_text()):
        verification = Verification(folder, kept=known, key=key)
        for verdict in (verification.whole(), Verification(folder, kept=known).quick(),
                        Verification(folder, kept=known).since()):  # fmt: skip
            assert not verdict.intact and "rewritten" in str(verdict.findings)


def test_a_log_made_anew_with_another_key_is_not_yours(tmp_path: Path) -> None:
    folder, other = written(tmp_path / "a", 9), written(tmp_path / "b", 9)
    key, kept = public(folder), (folder / "checkpoint").read_text()
    assert "not signed by your key" in str(examined(other, key=key).findings)
    assert "another log" in str(examined(other, kept=kept).findings)
    with pytest.raises(NoteError):
        Verification(other, kept="nothing")


def test_a_key_signs_only_in_its_own_time(tmp_path: Path) -> None:
    scribe = Scribe(tmp_path, epoch_s=0)
    folder = scribe.log.folder
    scribe.add([entry(0)])
    scribe.notary.work(1, scribe.add)  # opens: the first key
    scribe.close()
    folder = written(tmp_path / "b", 10)
    first = stolen(folder)  # before it hands over
    scribe = Scribe(tmp_path / "b", epoch_s=0)
    scribe.add([entry(10)])
    scribe.sign()
    scribe.add([entry(11)])
    scribe.close()
    assert examined(folder).intact and first.public == public(folder, 1) != public(folder, 2)
    for key in (public(folder, 1), public(folder, 2)):
        assert examined(folder, key=key).intact
    forged = copied(folder, tmp_path / "forged")
    resigned(forged, first)
    assert "not signed by the key" in str(examined(forged).findings)
    said = Checkpoint(first.public.name, 5, EMPTY)
    (forged / "checkpoint").write_text(first.sign(said.text))
    verdict = examined(forged)
    assert verdict.first_bad == 5 and "set back" in str(verdict.findings)
    rows = payloads(folder)
    rows[3] = entry(999)  # by a thief of the second key: the past is not his
    rewritten(folder, rows)
    resigned(folder, stolen(folder))
    assert "former key" in str(examined(folder).findings)


def test_since_reads_only_what_is_newer(tmp_path: Path) -> None:
    folder = written(tmp_path, 600)
    kept = (folder / "checkpoint").read_text()
    scribe = Scribe(tmp_path)
    scribe.add([entry(600 + i) for i in range(700)])
    scribe.sign()
    scribe.close()
    verdict = Verification(folder, kept=kept).since()
    assert verdict.intact and verdict.checked == 1300 - 512
    assert "0 to 511" in str(verdict.not_proved)
    rows = payloads(folder)
    for at, known in ((700, 700), (1299, 1299), (30, None)):
        changed = list(rows)
        changed[at] = entry(9_999)
        rewritten(folder, changed)
        verdict = Verification(folder, kept=kept).since()
        assert verdict.first_bad == known and verdict.intact is (known is None)
        assert examined(folder).first_bad == at
    rewritten(folder, rows)
    path = folder / "tile/1/000000"
    path.write_bytes(bytes(32) + path.read_bytes()[32:])
    for verdict in (Verification(folder, kept=kept).since(), Verification(folder).quick()):
        assert not verdict.intact and "stored tree" in str(verdict.findings)
    verdict = examined(folder)
    assert verdict.first_bad is None and "as they were signed" in str(verdict.findings)


def test_a_log_that_nobody_signed_proves_nothing(tmp_path: Path) -> None:
    folder = written(tmp_path, 5)
    (folder / "checkpoint").unlink()
    with pytest.raises(StoreError, match="Nothing is signed"):
        Verification(folder)
    shutil.rmtree(folder / "keys")
    with pytest.raises(StoreError, match="Nothing is signed"):
        Verification(folder)


def test_a_proof_needs_only_the_public_key(tmp_path: Path) -> None:
    scribe = Scribe(tmp_path, epoch_s=0)
    scribe.add([entry(number) for number in range(300)])
    scribe.sign()  # and hands over
    scribe.close()
    folder = tmp_path / "audit"
    first, second = public(folder, 1), public(folder, 2)
    for index in (0, 255, 299, 300):
        proof = prove(folder, index)
        proven = check(proof, first)
        assert (proven.index, proven.size) == (index, 301)
        assert proven.entry == payloads(folder)[index]
    with pytest.raises(NoteError, match="older key than yours"):
        check(proof, second)
    with pytest.raises(NoteError, match="not signed by your key"):
        check(proof, public(written(tmp_path / "b", 1)))
    lines = prove(folder, 7).split("\n")
    for number, line in enumerate(lines):
        for wrong in (line[:-1] + ("A" if line[-1:] != "A" else "B"), line + "x", None):
            changed = [*lines[:number], *([] if wrong is None else [wrong]), *lines[number + 1 :]]
            with pytest.raises(NoteError):
                check("\n".join(changed), first)
    with pytest.raises(NotFound, match="no entry 301"):
        prove(folder, 301)
    rows = payloads(folder)
    rewritten(folder, [*rows[:7], entry(999), *rows[8:]])
    with pytest.raises(StoreError, match="DAMAGED"):
        prove(folder, 7)
