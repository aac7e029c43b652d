"""The tree and its notary: roots and proofs of RFC 6962, crashes, keys that hand over."""

from __future__ import annotations

import os
import random
import shutil
import signal
import stat
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

from bifrost.audit import epochs, merkle, notary
from bifrost.audit.epochs import Keyring
from bifrost.audit.log import Log
from bifrost.audit.notary import Notary, Signed
from bifrost.audit.notes import NoteError, PublicKey, SigningKey, opened
from bifrost.audit.segments import frames, path_of
from bifrost.audit.tiles import Tiles
from bifrost.errors import StoreError
from tests.evidence import Scribe, all_files, entry, examined, payloads, root_of, stolen, written

WRITER = """
import sys
from pathlib import Path
from tests.evidence import Scribe, entry

scribe = Scribe(Path(sys.argv[1]), segment_bytes=20_000)
scribe.add([entry(scribe.log.next)])
scribe.sign()
print("ready", flush=True)
while True:
    scribe.add([entry(scribe.log.next + i, "x" * 40) for i in range(7)])
    scribe.notary.work(scribe.log.next, scribe.add, now=scribe.log.next % 3 == 0)
"""


def newest(folder: Path) -> tuple[int, bytes]:
    signed = Signed.load(folder)
    assert signed is not None
    said = Keyring(signed.keys).checked(signed.note)
    return said.size, said.root


def test_roots_and_proofs_are_those_of_rfc_6962(tmp_path: Path) -> None:
    entries, chance = [entry(number) for number in range(1_200)], random.Random(1)
    scribe, start = Scribe(tmp_path), 0
    while start < len(entries):
        batch = entries[start : start + chance.randrange(1, 90)]
        start += len(batch)
        scribe.add(batch)
        scribe.notary.work(start, scribe.add, now=chance.random() < 0.5)
    scribe.sign()
    tiles = Tiles(scribe.log.folder)
    assert newest(scribe.log.folder) == (1_200, root_of(entries))
    for size in [*range(1, 12), 255, 256, 257, 511, 512, 513, 1_000, 1_199, 1_200]:
        root = root_of(entries[:size])
        assert tiles.root(size) == root
        for index in {0, size - 1, size // 2, chance.randrange(size)}:
            path, hashed = merkle.inclusion(tiles, index, size), merkle.leaf(entries[index])
            assert merkle.root_over(index, size, hashed, path) == root
            assert merkle.root_over(index, size, merkle.leaf(b"else"), path) != root
            assert merkle.root_over(index + 1, size, hashed, path) != root
            assert merkle.root_over(index, size, hashed, [*path, root]) is None
        for old in {1, size, (size + 1) // 2, chance.randrange(size) + 1}:
            before, path = root_of(entries[:old]), merkle.consistency(tiles, old, size)
            assert merkle.is_consistent(old, before, size, root, path)
            assert not merkle.is_consistent(old, merkle.EMPTY, size, root, path)
            assert not merkle.is_consistent(old, before, size, merkle.EMPTY, path)
            assert not merkle.is_consistent(old, before, size, root, [*path, root])
            assert not path or not merkle.is_consistent(old, before, size, root, path[:-1])


def test_a_torn_tail_at_any_byte_leaves_a_tree_that_is_right(tmp_path: Path) -> None:
    folder = written(tmp_path / "a", 40)
    size = path_of(folder, 0).stat().st_size
    scribe = Scribe(tmp_path / "a")
    mark = (folder / "acknowledged").read_bytes()
    scribe.add([entry(40 + i) for i in range(2)])
    scribe.close()
    whole = path_of(folder, 0).read_bytes()

    def recovered(data: bytes) -> None:
        shutil.rmtree(tmp_path / "b", ignore_errors=True)
        shutil.copytree(tmp_path / "a", tmp_path / "b")
        path_of(tmp_path / "b/audit", 0).write_bytes(data)
        (tmp_path / "b/audit/acknowledged").write_bytes(mark)
        again = Scribe(tmp_path / "b")
        assert newest(tmp_path / "b/audit")[0] == 40 <= again.log.next <= 42
        again.add([b'{"new":1}'])
        again.sign()
        again.close()
        entries = payloads(tmp_path / "b/audit")
        assert newest(tmp_path / "b/audit") == (len(entries), root_of(entries))
        assert examined(tmp_path / "b/audit").intact

    for cut in range(size, len(whole) + 1):
        recovered(whole[:cut])
        if cut % 4 == 0:
            recovered(whole[:cut] + bytes(len(whole) - cut))


def test_less_than_what_was_signed_is_damage_whatever_the_mark_says(tmp_path: Path) -> None:
    folder = written(tmp_path, 20)
    path = path_of(folder, 0)
    os.truncate(path, path.stat().st_size - 1)
    (folder / "acknowledged").unlink()
    with pytest.raises(StoreError, match="DAMAGED .* entry 19 "):
        Log(tmp_path)


def test_killed_writers_leave_a_log_that_verifies(tmp_path: Path) -> None:
    for round_ in range(4):
        writer = subprocess.Popen(
            [sys.executable, "-W", "error", "-c", WRITER, tmp_path],
            stdout=subprocess.PIPE, text=True, cwd=Path(__file__).parent.parent,
        )  # fmt: skip
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
        time.sleep(0.05 + 0.04 * round_)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        writer.stdout.close()
        verdict = examined(tmp_path / "audit")
        assert verdict.intact, verdict.findings
    scribe = Scribe(tmp_path)
    size, _ = newest(tmp_path / "audit")
    assert 0 < size <= scribe.log.next
    scribe.sign()
    scribe.close()
    entries = payloads(tmp_path / "audit")
    assert newest(tmp_path / "audit") == (len(entries), root_of(entries))


@pytest.mark.parametrize("harm", ["gone", "short", "wrong"])
def test_the_stored_tree_is_made_anew_from_the_entries(tmp_path: Path, harm: str) -> None:
    folder = written(tmp_path, 700)
    path = folder / "tile/0/000000"
    data = path.read_bytes()
    if harm == "gone":
        shutil.rmtree(folder / "tile")
    else:
        path.write_bytes(data[:-1] if harm == "short" else data[:-32] + bytes(32))
    scribe = Scribe(tmp_path)
    scribe.add([entry(700)])
    scribe.sign()
    scribe.close()
    entries = payloads(folder)
    assert newest(folder) == (701, root_of(entries)) and examined(folder).intact
    assert path.read_bytes()[: len(data)] == data and not (folder / "tile.anew").exists()


def test_nothing_is_signed_that_contradicts_what_was_signed(tmp_path: Path) -> None:
    folder = written(tmp_path, 30)
    path, note = path_of(folder, 0), (folder / "checkpoint").read_bytes()
    shutil.rmtree(folder / "tile")
    path.write_bytes(frames(0, [entry(99 if n == 7 else n) for n in range(30)]))
    scribe = Scribe(tmp_path)
    for _ in range(2):
        with pytest.raises(StoreError, match="DAMAGED .* do not give the root that was signed"):
            scribe.sign()
    scribe.add([entry(30)])  # what happens is recorded all the same
    scribe.close()
    assert (folder / "checkpoint").read_bytes() == note and not (folder / "tile").exists()


def test_keys_hand_over_and_old_ones_are_destroyed(tmp_path: Path) -> None:
    scribe = Scribe(tmp_path, epoch_s=0)
    seeds = []
    for number in range(3):
        scribe.add([entry(number)])
        scribe.notary.work(scribe.log.next, scribe.add, now=True)
        seeds.append(stolen(scribe.log.folder).text.split("+", 4)[4].encode())
    scribe.close()
    folder = scribe.log.folder
    signed = Signed.load(folder)
    assert signed is not None
    ring = Keyring(signed.keys)
    assert [epoch.after for epoch in ring.epochs] == [0, 2, 4, 6]
    assert examined(folder).intact and newest(folder)[0] == 6
    assert [b"key_handover" in one for one in payloads(folder)] == [False, True] * 3
    everything = b"".join(path.read_bytes() for path in all_files(tmp_path))
    assert [seed in everything for seed in seeds] == [False, False, True]
    for path in tmp_path.glob("audit-signing.key*"):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert not any(b"PRIVATE" in path.read_bytes() for path in all_files(folder))


@pytest.mark.parametrize("stage", range(7))
def test_a_hand_over_cut_short_at_any_step_is_ended_or_begun_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stage: int
) -> None:
    folder = written(tmp_path, 10)
    scribe, write = Scribe(tmp_path, epoch_s=0), notary.write_whole
    left = [stage]

    def write_whole(path: Path, data: bytes, mode: int = 0o600) -> None:
        if not left[0]:
            raise OSError("crash")
        left[0] -= 1
        write(path, data, mode)

    def crash(_: Notary) -> None:
        raise OSError("crash")

    scribe.add([entry(10)])
    with monkeypatch.context() as patch:
        patch.setattr(notary, "write_whole", write_whole)
        if stage == 6:
            patch.setattr(Notary, "_replace_key", crash)
        with suppress(OSError):
            scribe.sign()
    scribe.close()
    assert examined(folder).intact
    again = Scribe(tmp_path)
    again.add([entry(11)])
    again.sign()
    again.close()
    verdict = examined(folder)
    assert verdict.intact and verdict.not_covered == 0, verdict.findings
    assert not (tmp_path / "audit-signing.key.next").exists() or stage < 4


def test_a_missing_or_other_key_signs_nothing_and_is_told(tmp_path: Path) -> None:
    folder = written(tmp_path, 10)
    path = tmp_path / "audit-signing.key"
    kept = path.read_text()
    for text in (None, SigningKey(public_name(kept), bytes(32)).text, "nonsense"):
        path.unlink() if text is None else path.write_text(text)
        scribe = Scribe(tmp_path)
        scribe.add([entry(10)])
        with pytest.raises(StoreError, match="audit-signing.key"):
            scribe.sign()
        scribe.close()
    path.write_text(kept)
    scribe = Scribe(tmp_path)
    scribe.sign()
    scribe.close()
    assert newest(folder)[0] == 13 and examined(folder).intact


def test_a_lost_key_is_followed_by_a_new_chain_that_is_not_the_old_one(tmp_path: Path) -> None:
    folder = written(tmp_path, 10)
    old = Keyring(epochs.sources(folder)).newest.key
    (tmp_path / "audit-signing.key").unlink()
    for name in ("keys", "tile", "checkpoint"):
        (folder / name).rename(tmp_path / name)
    scribe = Scribe(tmp_path)
    scribe.add([entry(10)])
    scribe.sign()
    scribe.close()
    assert newest(folder)[0] == 11 and examined(folder).intact
    assert not examined(folder, key=old).intact
    assert not examined(folder, kept=(tmp_path / "checkpoint").read_text()).intact


def public_name(private: str) -> str:
    return SigningKey.parse(private).public.name


def test_the_origin_and_the_place_of_the_key_can_be_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIFROST_AUDIT_KEY", str(tmp_path / "safe.key"))
    monkeypatch.setenv("BIFROST_AUDIT_ORIGIN", "two words")
    scribe = Scribe(tmp_path / "data")
    scribe.add([entry(0)])
    with pytest.raises(StoreError, match="BIFROST_AUDIT_ORIGIN is 'two words'"):
        scribe.sign()
    monkeypatch.setenv("BIFROST_AUDIT_ORIGIN", "gw.example/audit/1")
    scribe.sign()
    scribe.close()
    assert (tmp_path / "data/audit/checkpoint").read_text().startswith("gw.example/audit/1\n1\n")
    assert (tmp_path / "safe.key").exists() and not list((tmp_path / "data").glob("*.key"))


def test_notes_are_read_strictly() -> None:
    key = SigningKey("example.com/log", bytes(range(32)))
    note = key.sign("a text\n")
    assert opened(note, key.public) == "a text\n"
    assert PublicKey.parse(key.public.text) == key.public
    wrong = [
        note[1:], note[:-1], note + "x", note.replace("\n\n", "\n"), note.replace("— ", "- "),
        note.replace("=\n", "\n"), note.replace("a text", "a\ttext"), "", "a text\n\n",
        SigningKey("example.com/log", bytes(32)).sign("a text\n"),
        SigningKey("example.com/other", bytes(range(32))).sign("a text\n"),
    ]  # fmt: skip
    for text in wrong:
        with pytest.raises(NoteError):
            opened(text, key.public)
    for text in ("", "a+b", key.public.text[:-1], "x" + key.public.text, key.public.text.upper()):
        with pytest.raises(NoteError):
            PublicKey.parse(text)
