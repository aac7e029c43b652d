"""Retention: a keeper killed at any one of its steps, in a folder and in a real store.

Whoever looks then finds a whole log, and the next keeper ends what was begun.
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from itertools import count
from pathlib import Path
from typing import Literal

import msgspec
import pytest

from bifrost.audit import events, parts
from bifrost.audit.epochs import Keyring, sources
from bifrost.audit.log import Reader
from bifrost.audit.parts import Parts, checked_minimum, is_whole
from bifrost.audit.segments import segments
from bifrost.config.evidence import Archive, ArchiveBucket, Retention
from bifrost.s3 import Bucket
from tests.keeping import Keeping, Stewarding, check_kept, copy, entries, expire
from tests.reaper import Reaper, Work, reaping
from tests.seaweed import CREDENTIALS, Store, running

MONTH_S = 31 * 86_400


@pytest.fixture(scope="module")
def reaper(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Reaper]:
    with reaping(tmp_path_factory.mktemp("reaper")) as found:
        yield found


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running(tmp_path_factory.mktemp("seaweed")) as found:
        yield found


class Folder:
    """A folder as the archive."""

    def __init__(self, root: Path) -> None:
        self._root = root / "archive"

    def archive(self, number: int) -> Archive:
        """The archive of one log."""
        place = self._root / str(number)
        place.mkdir(parents=True)
        return Archive(directory=str(place))

    def names(self, number: int) -> list[str]:
        """What is in it, half-written files left out: nobody takes those for anything."""
        place = self._root / str(number)
        files = (path for path in place.rglob("*") if path.is_file())
        return sorted(str(path.relative_to(place)) for path in files if path.suffix != ".fresh")


class Vault:
    """A bucket of a real store as the archive."""

    def __init__(self, bucket: Bucket, lock: Literal["none", "compliance"]) -> None:
        self._bucket, self._lock = bucket, lock

    def archive(self, number: int) -> Archive:
        """The archive of one log."""
        given = ArchiveBucket(
            bucket=self._bucket.name, prefix=str(number), endpoint=self._bucket.endpoint,
            object_lock=self._lock,
            access_key_id=CREDENTIALS.access_key_id,
            secret_access_key=CREDENTIALS.secret_access_key,
        )  # fmt: skip
        return Archive(s3=given)

    def names(self, number: int) -> list[str]:
        """What is in it, once for every version."""
        query = [("prefix", f"{number}/")] + [("versions", "")] * (self._lock != "none")
        _, _, listed = self._bucket._ask("GET", "", query=query, taken=(200,))
        keys = re.findall("<Key>(.*?)</Key>", listed.decode())
        return sorted(key.removeprefix(f"{number}/") for key in keys)


Depot = Folder | Vault
both = pytest.mark.parametrize("kind", ["folder", "bucket"])
torn_or_not = pytest.mark.parametrize("torn", [False, True], ids=["steps", "writes"])


@pytest.fixture
def depot(kind: str, tmp_path: Path, request: pytest.FixtureRequest) -> Depot:
    """An archive for as many logs as a test needs; a bucket is locked where nothing is removed."""
    if kind == "folder":
        return Folder(tmp_path)
    store: Store = request.getfixturevalue("store")
    name = re.sub("[^a-z]+", "-", request.node.name).strip("-")[-60:].strip("-")
    locked = "archives" in request.node.name
    return Vault(store.create(name, locked=locked), "compliance" if locked else "none")


@pytest.fixture(autouse=True)
def credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the store, as commands take them."""
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS.secret_access_key)


@pytest.fixture
def first(tmp_path: Path) -> Path:
    """A log of three segments, two of them sealed and a month old."""
    return written(tmp_path / "first", 2)


def written(place: Path, olds: int) -> Path:
    """A log of so many sealed segments, a month old, and one more."""
    keeping = Keeping(place)
    while len(sealed(place)) < olds:
        keeping.fill(2)
    keeping.age(-MONTH_S)
    keeping.close()
    return place


def sealed(place: Path) -> list[tuple[int, int]]:
    """First and end of the sealed segments beside a log."""
    found = segments(place / "audit")
    return list(zip(found, found[1:], strict=False))


def opened(place: Path, retention: Retention) -> Keeping:
    return Keeping(place, **msgspec.structs.asdict(retention))


def ended(place: Path, retention: Retention) -> list[events.RetentionStep]:
    """Has the next keeper do the rest; what the log then says of retention."""
    keeping = opened(place, retention)
    keeping.settle()
    keeping.settle()
    assert not keeping.trouble
    told = keeping.steps()
    keeping.close()
    return told


def check_whole(place: Path, before: list[tuple[int, bytes]]) -> None:
    """Nothing is lost, nothing half is counted, and a key signed what was removed."""
    parts._unpacked.clear()
    check_kept(place, before)
    folder, found = place / "audit", Parts(place / "audit")
    for manifest in found.manifests():
        if manifest.end > found.minimum():
            stored = found.depot(manifest).get(manifest.name, manifest.version)
            assert stored is not None and is_whole(manifest, stored.data)
    minimum = checked_minimum(folder, Keyring(sources(folder)))  # raises if it is not signed
    assert (minimum.index if minimum is not None else 0) == found.minimum()


def check_archived(folder: Path, held: list[str], wanted: list[tuple[int, int]]) -> None:
    """Each of these parts is in the archive once, with its manifest, and nothing else is."""
    names = sorted(path.name for path in (folder / "archived").glob("*.json"))
    assert names == [f"{begin:020d}-{end:020d}.json" for begin, end in wanted]
    manifests = Parts(folder).manifests()
    assert held == sorted(name for one in manifests for name in (one.name, one.note_name))


@both
@torn_or_not
def test_a_keeper_that_archives_is_killed(
    kind: str, depot: Depot, torn: bool, reaper: Reaper, tmp_path: Path
) -> None:
    first = written(tmp_path / "first", 2 if kind == "folder" else 1)
    before, olds = entries(first / "audit"), sealed(first)
    for fatal in count(1):
        place = copy(first, tmp_path / f"n{fatal}")
        folder = place / "audit"
        retention = Retention(
            archive_after="30d", duration="365d", archive=depot.archive(fatal)
        )  # fmt: skip
        reaped = reaper.do(Work(data_dir=str(place), retention=retention, fatal=fatal, torn=torn))
        check_whole(place, before)
        told = ended(place, retention)
        check_whole(place, before)
        assert [(one.action, one.first, one.end) for one in told] == [
            ("archive", begin, end) for begin, end in olds
        ]
        assert segments(folder)[0] == olds[-1][1]
        check_archived(folder, depot.names(fatal), olds)
        if not reaped.killed:
            break
    assert reaped.steps == fatal - 1 >= (10 if torn else 50)


@both
@torn_or_not
def test_a_keeper_that_removes_is_killed(
    depot: Depot, torn: bool, first: Path, reaper: Reaper, tmp_path: Path
) -> None:
    """One part is removed from the archive, another stays there."""
    before, olds = entries(first / "audit"), sealed(first)
    least = olds[0][1]
    for fatal in count(1):
        place = copy(first, tmp_path / f"n{fatal}")
        folder = place / "audit"
        retention = Retention(
            archive_after="30d", duration="365d", archive=depot.archive(fatal)
        )  # fmt: skip
        assert len(ended(place, retention)) == 2
        expire(folder, least)
        reaped = reaper.do(Work(data_dir=str(place), retention=retention, fatal=fatal, torn=torn))
        check_whole(place, before)
        told = ended(place, retention)
        check_whole(place, before)
        assert {(one.first, one.end) for one in told if one.action == "prune"} == {(0, least)}
        assert Parts(folder).minimum() == least
        check_archived(folder, depot.names(fatal), olds[1:])
        if not reaped.killed:
            break
    assert reaped.steps == fatal - 1 >= (5 if torn else 30)


@torn_or_not
def test_a_keeper_that_removes_segments_is_killed(
    torn: bool, first: Path, reaper: Reaper, tmp_path: Path
) -> None:
    """Nothing is archived: entries go from beside us."""
    before = entries(first / "audit")
    retention = Retention(duration="30d")
    for fatal in count(1):
        place = copy(first, tmp_path / f"n{fatal}")
        reaped = reaper.do(Work(data_dir=str(place), retention=retention, fatal=fatal, torn=torn))
        check_whole(place, before)
        told = ended(place, retention)
        check_whole(place, before)
        assert {one.action for one in told} == {"prune"}
        assert Parts(place / "audit").minimum() == segments(place / "audit")[0] == told[-1].end
        assert told[-1].end in segments(first / "audit") or told[-1].end == len(before)
        if not reaped.killed:
            break
    assert reaped.steps == fatal - 1 >= (5 if torn else 30)


@torn_or_not
def test_a_steward_that_archives_what_the_outbox_gave_it_is_killed(
    torn: bool, reaper: Reaper, tmp_path: Path
) -> None:
    """Each event of the outbox is in the log once, also when its segment goes at that moment.

    One log, and every time another piece of it is sealed and archived.
    """
    place, number = tmp_path / "log", 0
    retention = Retention(archive_after="0s")
    for fatal in count(1):
        stewarding = Stewarding(place, Retention())
        number = happened(stewarding, number)
        stewarding.settle()
        stewarding.seal()
        if fatal % 2:  # else what is left beside us is not from the outbox
            number = happened(stewarding, number)
        stewarding.close()
        work = Work(
            data_dir=str(place), retention=retention, fatal=fatal, torn=torn, steward=True
        )  # fmt: skip
        reaped = reaper.do(work)
        stewarding = Stewarding(place, retention)
        newest = Reader(place).read(Reader(place).end() - 12, 12)
        assert stewarding.last == max(events.sequence(entry) for _, entry in newest) > 0
        number = happened(stewarding, number)
        stewarding.settle()
        stewarding.close()
        if not reaped.killed:
            break
    assert reaped.steps == fatal - 1 >= (10 if torn else 60)
    check_whole(place, [])
    told = [events.decode(raw) for _, raw in entries(place / "audit")]
    asked = [one.request for one in told if isinstance(one, events.ModelAccess)]
    assert asked == [f"r{n}" for n in range(number)]
    archived = [(o.first, o.end) for o in told if isinstance(o, events.RetentionStep)]
    assert archived == Parts(place / "audit").archived()
    assert len(archived) >= fatal and segments(place / "audit")[0] == archived[-1][1]


def happened(stewarding: Stewarding, number: int) -> int:
    """Three more requests that the outbox tells of; the number of the next."""
    for one in range(number, number + 3):
        now = time.time_ns()
        event = events.ModelAccess(at=now, request=f"r{one}", key="k", outcome="ok")
        stewarding.gate.append(events.encode(event), now)
    return number + 3
