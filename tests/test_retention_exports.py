"""What retention does about entries that an export has not sent: it waits, or says what is lost."""

from __future__ import annotations

import json
import re
from pathlib import Path

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.audit.parts import Parts
from bifrost.audit.segments import segments
from bifrost.config.exports import FileExport
from bifrost.exports import dispatch
from bifrost.exports.exporter import enlist
from bifrost.exports.progress import Progress, unsent
from tests.collectors import Intake
from tests.commands import Office, until
from tests.exporting import House
from tests.keeping import Keeping, judged
from tests.running import RunningGateway, configuration


def test_what_exports_have_not_sent_waits_but_not_for_ever(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, duration="365d", wait_for_exports="30d")
    keeping.fill()
    many = segments(keeping.folder)
    keeping.unsent = {"slow": many[3] + 1, "quick": many[7]}
    keeping.age(-380 * 86_400)
    keeping.settle()
    assert Parts(keeping.folder).minimum() == many[3]  # all but the segment it stands in
    keeping.unsent["slow"] = many[5]
    keeping.settle()
    assert Parts(keeping.folder).minimum() == many[5]
    assert passed_over(keeping) == []
    keeping.unsent = {"slow": many[5] + 3, "quick": keeping.log.next, "new": 0}
    keeping.age(-400 * 86_400)
    keeping.settle()
    least = Parts(keeping.folder).minimum()
    assert least == many[-1]
    # Said before they go, of each that has not sent them, and only what went now.
    assert passed_over(keeping) == [
        ("new", many[5], least - many[5]), ("slow", many[5] + 3, least - many[5] - 3),
    ]  # fmt: skip
    assert judged(keeping.folder).intact
    keeping.close()


def passed_over(keeping: Keeping) -> list[tuple[str, int, int]]:
    """What the log says was removed before an export had sent it: sink, first, count."""
    found = [raw for _, raw in Reader(keeping.folder.parent).read(0, 1 << 30) if b'"export"' in raw]
    told = [one for one in map(events.decode, found) if isinstance(one, events.Exported)]
    assert {one.action for one in told} <= {"passed_over"}
    return [(one.sink, one.first, one.count) for one in told]


def test_what_exports_have_not_sent_can_wait_for_ever(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, duration="1d", wait_for_exports="forever")
    keeping.fill()
    many = segments(keeping.folder)
    keeping.unsent = {"slow": many[3], "quick": many[7]}
    keeping.age(-99 * 366 * 86_400)
    keeping.settle()
    assert Parts(keeping.folder).minimum() == many[3]
    keeping.unsent["slow"] = many[-1]
    keeping.settle()
    assert Parts(keeping.folder).minimum() == many[7]
    assert passed_over(keeping) == [] and judged(keeping.folder).intact
    keeping.close()


def test_while_it_cannot_be_told_what_exports_sent_nothing_goes(tmp_path: Path) -> None:
    keeping = Keeping(tmp_path, duration="1d", wait_for_exports=None)
    keeping.fill()
    keeping.age()
    (tmp_path / "exports.db").write_bytes(b"no database" * 100)
    sink = FileExport(name="file", path="out")
    keeping.keeper._unsent = lambda: unsent(tmp_path, [sink])
    keeping.step()
    assert Parts(keeping.folder).minimum() == 0 and "exports" in keeping.trouble
    (tmp_path / "exports.db").unlink()
    keeping.settle()
    # It is configured and not yet noted: it has everything to send.
    assert passed_over(keeping) == [("file", 0, Parts(keeping.folder).minimum())]
    keeping.close()


def test_what_is_not_yet_noted_has_everything_to_send(tmp_path: Path) -> None:
    old, new = FileExport(name="old", path="a"), FileExport(name="new", path="b", start="newest")
    assert unsent(tmp_path, [old, new]) == {"old": 0} and unsent(tmp_path, []) == {}
    progress = Progress(tmp_path)
    progress.enrol([old, new], 5, 9)
    progress.close()
    assert unsent(tmp_path, [old, new]) == {"old": 5, "new": 9}


def test_entries_that_go_while_they_are_read_are_told_of(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The exporter looks, then retention removes, then the exporter reads."""
    keeping = Keeping(tmp_path / "data", duration="365d", wait_for_exports=None)
    keeping.fill()
    sink = FileExport(name="file", path=str(tmp_path / "out.jsonl"), interval_s=0.05)
    assert enlist(keeping.folder.parent, [sink], lambda *_: None)
    keeping.age()
    keeping.settle()
    least = Parts(keeping.folder).minimum()
    keeping.close()
    looked: list[int] = []

    class Late(Reader):
        def oldest(self) -> int:
            looked.append(super().oldest())
            return 0 if len(looked) == 1 else looked[-1]

    monkeypatch.setattr(dispatch, "Reader", Late)
    house = House(keeping.folder.parent)
    try:
        house.start(sink)
        house.caught_up("file")
    finally:
        house.close()
    assert len(looked) > 1
    assert [(one.action, *one[2:4]) for one in house.told] == [("gap", 0, least)]
    lines = [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()]
    assert [one["index"] for one in lines if "entry" in one][0] == least


@pytest.mark.timeout(300)
def test_a_gateway_says_what_an_export_that_is_away_will_never_get(tmp_path: Path) -> None:
    intake = Intake("another")  # refuses all
    sink = {"type": "datadog", "name": "away", "url": intake.url, "token": "k3y"}
    kept = {"duration": "6s", "wait_for_exports": "1s"}
    config = configuration("http://127.0.0.1:9")
    gateway = RunningGateway(
        tmp_path, {**config, "audit_logs": {"retention": kept, "exports": [sink]}}
    )

    def told() -> list[events.Exported]:
        found = [events.decode(raw) for _, raw in Reader(gateway.data_dir).read(0, 10_000)]
        exports = [one for one in found if isinstance(one, events.Exported)]
        return [one for one in exports if one.action == "passed_over"]

    def lost() -> float:
        text = httpx.get(f"{gateway.url}/metrics", timeout=30).text
        found = re.search(r'^bifrost_export_removed_entries\{sink="away"\} (\S+)$', text, re.M)
        return float(found[1]) if found else 0.0

    try:
        until(told, 120)
        one = told()[0]
        assert (one.actor, one.sink, one.first) == ("gateway", "away", 0) and one.count > 0
        assert "1s after their time" in one.reason
        until(lambda: lost() > 0, 60)
        assert Office(gateway.data_dir)("audit", "verify").code == 0
    finally:
        gateway.stop()
        intake.close()
