"""The page /metrics: right for Prometheus, summed over workers, never going back, bounded."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from bifrost import meters as room
from bifrost._fast.timing import Timing
from bifrost.config.load import default_settings
from bifrost.core import Core
from bifrost.meters import MOST, OTHER, WHOLE, Meters, pages
from bifrost.metrics import FAMILIES, Pulse, exposition
from tests.commands import until
from tests.running import KEY, RunningGateway, RunningMock, bearer, configuration, message

DOCS = Path(__file__).parent.parent / "docs"
Series = dict[tuple[str, tuple[tuple[str, str], ...]], float]


def checked(page: str) -> Series:
    """Every sample of a page that Prometheus' own parser takes and that is what it says."""
    found: Series = {}
    known = {f"bifrost_{family.name}": family for family in FAMILIES}
    for one in text_string_to_metric_families(page):
        family = known.pop(one.name if one.name in known else f"{one.name}_total")
        assert (one.type, one.documentation) == (family.kind, family.says)
        for sample in one.samples:
            series = (sample.name, tuple(sorted(sample.labels.items())))
            assert series not in found, series
            assert sample.value >= 0
            assert set(sample.labels) - {"le", "quantile"} == set(family.labels)
            found[series] = sample.value
        if one.type == "histogram":
            _rising(found, one.name)
    assert not known  # every family is there, also those that have no series yet
    return found


def _rising(found: Series, name: str) -> None:
    buckets: dict[tuple[tuple[str, str], ...], list[tuple[float, float]]] = {}
    for (sample, labels), value in found.items():
        if sample == f"{name}_bucket":
            rest = tuple(pair for pair in labels if pair[0] != "le")
            buckets.setdefault(rest, []).append((float(dict(labels)["le"]), value))
    for rest, pairs in buckets.items():
        assert pairs == sorted(pairs) and pairs[-1][0] == float("inf")
        assert [count for _, count in pairs] == sorted(count for _, count in pairs)
        assert pairs[-1][1] == found[f"{name}_count", rest]
        assert (found[f"{name}_sum", rest] > 0) == (pairs[-1][1] > 0)


def value(found: Series, name: str, **labels: str) -> float:
    """One sample; 0 where there is no such series yet."""
    return found.get((f"bifrost_{name}", tuple(sorted(labels.items()))), 0.0)


def counters(found: Series) -> Series:
    """What may never go back."""
    return {
        series: number for series, number in found.items()
        if series[0].endswith(("_total", "_bucket", "_count", "_sum"))
    }  # fmt: skip


# -- the rows of one process ----------------------------------------------------------------------


def test_the_next_process_counts_on_in_the_file_of_one_that_ended(tmp_path: Path) -> None:
    first, second = Meters(tmp_path), Meters(tmp_path)
    assert {first.path, second.path} == {tmp_path / "metrics" / f"{n}.meters" for n in range(2)}
    first.meter("model", "p", "m").add(0, 5)
    first.meter("upstream", "host:1").set(0, 7)
    first.meter("upstream", "host:1").add(3, 7)
    first.close()
    third = Meters(tmp_path)
    assert third.path == first.path
    assert third.meter("model", "p", "m").row()[0] == 5
    third.meter("model", "p", "m").add(0, 1)
    assert third.meter("upstream", "host:1").row()[:4] == [0, 0, 0, 7]  # how it is, is not kept
    rows = [dict(page.rows()).get(("model", "p", "m"), [0])[0] for page in pages(tmp_path)]
    assert sorted(rows) == [0, 6]
    second.close()
    third.close()


def test_what_a_killed_process_counted_is_kept(tmp_path: Path) -> None:
    program = (
        "import os, pathlib, signal, sys\n"
        "from bifrost.meters import Meters\n"
        "meters = Meters(pathlib.Path(sys.argv[1]))\n"
        "meters.meter('refusal', 'a').add(0, 3)\n"
        "meters.meter('worker').set(0, 9)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, tmp_path], check=False)
    assert done.returncode == -signal.SIGKILL
    (page,) = pages(tmp_path)
    assert not page.lives()
    assert dict(page.rows())["refusal", "a"][0] == 3
    meters = Meters(tmp_path)
    assert [page.lives() for page in pages(tmp_path)] == [True]
    assert meters.meter("worker").row()[0] == 0
    meters.close()
    assert [page.lives() for page in pages(tmp_path)] == [False]


def test_however_many_names_there_are_the_rows_are_not_more(tmp_path: Path) -> None:
    meters = Meters(tmp_path)
    for n in range(10_000):
        meters.meter("model", OTHER, f"junk-{n}").add(0, 1)
    meters.meter("model", "p", "x" * 512).add(0, 1)
    meters.meter("model", "p", '\n"\\\x00é' * 9).add(0, 1)
    rows = dict(meters.page().rows())
    assert len(rows) == MOST["model"] + 1
    assert rows["model", OTHER, OTHER][0] == 10_002 - MOST["model"]
    meters.meter("refusal", "code").add(0, 1)  # of another kind: there is room
    assert ("refusal", "code") in dict(meters.page().rows())
    assert meters.path is not None
    assert meters.path.stat().st_size == WHOLE
    meters.close()


def test_a_file_of_another_layout_is_begun_anew_and_a_broken_name_ends_the_list(
    tmp_path: Path,
) -> None:
    path = tmp_path / "metrics" / "0.meters"
    path.parent.mkdir()
    path.write_bytes(b"\xff" * (WHOLE + 99))
    assert pages(tmp_path) == []
    meters = Meters(tmp_path)
    meters.meter("refusal", "a").add(0, 1)
    meters.meter("refusal", "b").add(0, 1)
    meters.close()
    raw = bytearray(path.read_bytes())
    at = raw.index(b'["refusal","b"]')
    raw[at + 4 :] = bytes(len(raw) - at - 4)  # as a process left it that was killed just there
    path.write_bytes(raw)
    meters = Meters(tmp_path)
    meters.meter("refusal", "c").add(0, 1)
    assert {name for name, _ in meters.page().rows()} == {("refusal", "a"), ("refusal", "c")}
    meters.close()


def test_without_a_folder_a_process_counts_for_itself(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "metrics").write_text("in the way")
    meters = Meters(tmp_path)
    meters.meter("refusal", "a").add(0, 1)
    assert meters.path is None and dict(meters.page().rows())["refusal", "a"][0] == 1
    meters.close()
    (tmp_path / "metrics").unlink()
    monkeypatch.setattr(room.os, "pwrite", lambda *_: 7)  # a full disk
    assert Meters(tmp_path).path is None


def test_timings_go_on_where_they_are_laid() -> None:
    memory = bytearray(3 * room.SIZE)
    timing, sum_of_both = Timing(), Timing()
    timing.lay(memory, room.SIZE)
    assert (timing.count, timing.total_ns, timing.quantile(0.5)) == (0, 0, 0)
    with pytest.raises(ValueError):
        timing.lay(memory, 2 * room.SIZE + 8)
    with pytest.raises(ValueError):
        sum_of_both.merge(memory[: room.SIZE - 1])
    sum_of_both.merge(memory[room.SIZE :])
    assert sum_of_both.count == 0


def test_names_of_any_kind_stay_one_series_each(tmp_path: Path) -> None:
    core = Core(default_settings(), tmp_path)
    for name in ("a", 'b"\\\n', "é\u2028", ""):
        core.meters.meter("model", name, "m").add(0, 1)
    Pulse(core, lambda: 3).beat()
    found = checked(exposition(core))
    assert value(found, "requests_total", provider='b"\\\n', model="m", outcome="ok") == 1
    assert value(found, "calls_in_flight") == 3 and value(found, "workers") == 1
    core.close()


# -- a gateway with several workers ---------------------------------------------------------------


@pytest.fixture
def gateway(mock: RunningMock, tmp_path: Path) -> Iterator[RunningGateway]:
    """Two workers."""
    config = configuration(mock.url) | {"server": {"workers": 2}}
    running = RunningGateway(tmp_path / "gateway", config)
    yield running
    running.stop()


def scraped(gateway: RunningGateway) -> Series:
    """The page, on a connection of its own, so of any worker."""
    answer = httpx.get(f"{gateway.url}/metrics")
    assert answer.status_code == 200
    assert answer.headers["content-type"].startswith("text/plain; version=0.0.4")
    return checked(answer.text)


def ask(gateway: RunningGateway, *, key: str = KEY, fail: int = 0, **changes: Any) -> int:
    headers = bearer(key) | {"x-mock-latency-ms": "50"}
    headers |= {"x-mock-fail": str(fail)} if fail else {}
    # a connection of its own each time: now this worker gets it, now that
    body = message(**changes)
    return httpx.post(f"{gateway.url}/v1/messages", headers=headers, json=body).status_code


def test_every_worker_tells_the_sums_of_all(gateway: RunningGateway, mock: RunningMock) -> None:
    told = Counter[int]()
    for n in range(12):
        told[ask(gateway, stream=n % 2 == 0)] += 1
    for _ in range(3):
        told[ask(gateway, fail=429)] += 1
        told[ask(gateway, key="sk-bf-" + "x" * 40)] += 1
        told[ask(gateway, model="claude-junk")] += 1
    assert told == {200: 12, 429: 3, 401: 3, 400: 3}
    who = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
    pages = [scraped(gateway) for _ in range(8)]
    for found in pages:
        assert value(found, "workers") == 2
        assert value(found, "requests_total", **who, outcome="ok") == 12
        assert value(found, "requests_total", **who, outcome="error") == 3
        assert value(found, "refusals_total", code="virtual_key_not_found") == 3
        assert value(found, "refusals_total", code="model_unpriced") == 3
        for name in ("request", "first_byte"):
            assert value(found, f"{name}_seconds_count", **who) == 15
        assert value(found, "overhead_seconds_count") == 15
        assert value(found, "governance_seconds_count") == 15
        assert value(found, "overhead_seconds_sum") < value(found, "request_seconds_sum", **who)
        assert value(found, "budgets", level="team") == 1
        assert value(found, "reservations") == value(found, "reserved_usd") == 0
    usage = Counter[str]()
    for _, one in [bill for bills in mock.bills().values() for bill in bills]:
        usage.update(one)
    assert value(pages[0], "tokens_total", **who, kind="output") == usage["output_tokens"]
    spent = gateway.spent()["customers:acme"][0]
    assert value(pages[0], "cost_usd_total", **who) == pytest.approx(float(spent))
    used = [number for (name, _), number in pages[0].items() if name == "bifrost_budget_used_ratio"]
    assert len(used) == 2 and max(used) == pytest.approx(float(spent) / 500, abs=1e-6)
    upstream = mock.url.removeprefix("http://")
    until(lambda: value(scraped(gateway), "upstream_reused_total", upstream=upstream)
          + value(scraped(gateway), "upstream_opened_total", upstream=upstream) >= 15)  # fmt: skip
    until(lambda: value(scraped(gateway), "audit_log_entries") >= 15)
    assert value(scraped(gateway), "audit_log_bytes") > 0


def test_counters_never_go_back_when_workers_die(gateway: RunningGateway) -> None:
    before = counters(scraped(gateway))
    supervisor = psutil.Process(gateway.process.pid)
    for _ in range(3):
        assert ask(gateway) == 200
        children = {child.pid for child in supervisor.children()}
        for child in children:  # workers and the steward
            os.kill(child, signal.SIGKILL)

        def renewed(old: set[int] = children) -> bool:
            now = {child.pid for child in supervisor.children()}
            return len(now) == len(old) and not now & old

        until(renewed, 30)
        after = counters(until(lambda: _page(gateway), 30))
        assert after.keys() >= before.keys()
        assert all(after[series] >= number for series, number in before.items())
        before = after
    who = {"provider": "anthropic", "model": "claude-sonnet-4-5"}
    assert value(before, "requests_total", **who, outcome="ok") == 3
    assert len(list((gateway.data_dir / "metrics").iterdir())) <= 2 + 2  # workers, stewards


def _page(gateway: RunningGateway) -> Series | None:
    try:
        return scraped(gateway)
    except httpx.TransportError:
        return None


def test_what_is_under_way_and_what_died_with_its_worker(gateway: RunningGateway) -> None:
    headers = bearer() | {"x-mock-latency-ms": "60000"}
    with httpx.Client() as client:
        request = client.build_request(
            "POST", f"{gateway.url}/v1/messages", headers=headers, json=message(stream=True)
        )

        def wait() -> None:
            try:
                client.send(request)
            except httpx.TransportError:
                pass

        waiting = threading.Thread(target=wait)
        waiting.start()
        until(lambda: value(scraped(gateway), "reservations") == 1)
        found = scraped(gateway)
        assert value(found, "reserved_usd") > 0
        until(lambda: value(scraped(gateway), "calls_in_flight") == 1)
        for child in psutil.Process(gateway.process.pid).children():
            os.kill(child.pid, signal.SIGKILL)
        waiting.join(30)
    who = {"provider": "anthropic", "model": "claude-sonnet-4-5"}

    def charged() -> bool:
        found = _page(gateway)
        return found is not None and value(found, "requests_total", **who, outcome="unsettled") == 1

    until(charged, 60)
    found = scraped(gateway)
    assert value(found, "reservations") == value(found, "calls_in_flight") == 0
    assert value(found, "cost_usd_total", **who) > 0


# -- what is written about it ---------------------------------------------------------------------


def test_the_documents_table_is_what_is_served() -> None:
    rows = re.findall(r"^\| `(bifrost_\w+)` \| (\w+) \| (.*?) \| (.*?) \|$",
                      (DOCS / "metrics.md").read_text(), re.M)  # fmt: skip
    said = [(name, kind, tuple(re.findall(r"`(\w+)`", labels)), says)
            for name, kind, labels, says in rows]  # fmt: skip
    assert said == [(f"bifrost_{one.name}", one.kind, one.labels, one.says) for one in FAMILIES]


def test_the_example_rules_name_metrics_there_are() -> None:
    rules = yaml.safe_load((DOCS / "prometheus-rules.yml").read_text())
    known = {f"bifrost_{family.name}" for family in FAMILIES}
    suffix = re.compile(r"_(bucket|count|sum)$")
    for group in rules["groups"]:
        for rule in group["rules"]:
            named = set(re.findall(r"bifrost_\w+", rule["expr"]))
            assert named and {suffix.sub("", name) for name in named} <= known, rule["alert"]
            assert rule["annotations"]["summary"] and rule["labels"]["severity"]
