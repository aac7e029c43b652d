"""The benchmark's machinery: it runs, counts and reports; no timing is judged here."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import msgspec
import pytest
import uvloop

from benchmarks import crowd, readme, translating, view
from benchmarks.__main__ import RESULTS, options
from benchmarks.cases import Case, cases, paced
from benchmarks.fixed import provider
from benchmarks.gathering import Pacing
from benchmarks.load import Load, Target
from benchmarks.measures import compared
from benchmarks.openloop import Outcome, Plan, carry_out
from benchmarks.peers import roster
from benchmarks.peers.envoy import configuration
from benchmarks.peers.peer import Peer
from benchmarks.processes import ROOT, BenchError, Cores, Server, finish
from benchmarks.report import join, read, write
from benchmarks.result import Report, summarise
from benchmarks.soak import growth
from benchmarks.stage import MEASURES, Options, Sample
from benchmarks.tables import markdown
from bifrost.passage.ways import FROM_CLIENTS, TO_HOSTS
from tests.running import RunningMock

COMMAND = [sys.executable, "-m", "benchmarks"]


def plan(mock: RunningMock, case: Case, **changes: Any) -> Plan:
    """Half a second of a case to the mock itself."""
    port = int(mock.url.rpartition(":")[2])
    given = {"rate": 0, "connections": 4, "seconds": 0.3, "stream": case.stream, **changes}
    message = case.message(f"127.0.0.1:{port}", "/v1/messages")
    return Plan(host="127.0.0.1", port=port, message=message, **given)


def sent(asked: Plan) -> Outcome:
    """The outcome of a plan."""
    return uvloop.run(carry_out(asked))


def steered(**headers: str) -> Case:
    """A small request with headers for the mock."""
    given = tuple((name.replace("_", "-"), value) for name, value in headers.items())
    return msgspec.structs.replace(cases()[0], headers=given)


def test_the_cases_are_of_the_named_sizes() -> None:
    sizes = {case.name: len(case.body) for case in cases()}
    assert sizes["json-1k"] == sizes["sse-1k"] == 1000
    assert all(49_000 < size < 51_000 for name, size in sizes.items() if "50k" in name)
    assert all(json.loads(case.body)["stream"] is case.stream for case in cases())


def test_the_timetable_sends_every_request_once(mock: RunningMock) -> None:
    before = mock.account()["total"]["requests"]
    outcome = sent(plan(mock, cases()[0], rate=333))
    assert (outcome.due, outcome.answered, outcome.errors) == (100, 100, 0)
    assert mock.account()["total"]["requests"] - before == 100
    assert 0 < outcome.latency.p50 <= outcome.latency.p99 <= outcome.latency.most


def test_the_closed_loop_answers_what_it_sends(mock: RunningMock) -> None:
    before = mock.account()["total"]["requests"]
    outcome = sent(plan(mock, cases()[1]))
    assert outcome.answered == outcome.due == mock.account()["total"]["requests"] - before > 4
    assert outcome.errors == outcome.unanswered == 0


def test_a_stall_is_felt_by_the_requests_due_meanwhile(mock: RunningMock) -> None:
    slow = steered(x_mock_latency_ms="50")
    outcome = sent(plan(mock, slow, rate=200, connections=1))
    assert not outcome.reached
    assert outcome.queue > 10
    assert outcome.latency.most > 500_000  # one connection needs 50 ms for each of 60 requests


def test_answers_other_than_2xx_and_lost_connections_are_errors(mock: RunningMock) -> None:
    refused = sent(plan(mock, steered(x_mock_fail="529"), rate=100))
    assert refused.failed == refused.answered == refused.due == 30
    cut = sent(plan(mock, steered(x_mock_cut_after="1"), rate=100))
    assert cut.broken == cut.due == 30


def test_streams_have_a_first_byte_before_their_end(mock: RunningMock) -> None:
    outcome = sent(plan(mock, paced(10), rate=50))
    assert outcome.errors == 0
    assert 0 < outcome.first.p50 < outcome.latency.p50


def test_the_load_reaches_a_target_with_or_without_wrk(mock: RunningMock, tmp_path: Path) -> None:
    port = int(mock.url.rpartition(":")[2])
    target = Target("direct", "127.0.0.1", port, "/v1/messages", "/v1/messages")
    load = Load(tmp_path, Cores.allowed(), 4)
    outcomes = [load.closed(target, cases()[0], 1)]
    load.wrk = None
    outcomes.append(load.closed(target, cases()[0], 0.2))
    for outcome in outcomes:
        assert outcome.answered > 10
        assert outcome.errors == 0


@pytest.mark.parametrize("kind", roster.PEERS, ids=lambda kind: kind.name)
def test_a_peer_forwards_whole_answers_and_streams(
    kind: type[Peer], mock: RunningMock, tmp_path: Path
) -> None:
    if kind.find() is None:
        pytest.skip(f"NOT TESTED: {kind.name} IS NOT INSTALLED")
    if kind.heavy and "BIFROST_BENCH_CACHE" not in os.environ:
        pytest.skip(f"NOT TESTED: {kind.name} takes long to start; set BIFROST_BENCH_CACHE")
    assert kind.version()
    core = Cores.allowed().load
    running = kind(mock.url.removeprefix("http://"), tmp_path, core)
    try:
        assert running.start_s > 0
        load = Load(tmp_path, Cores.allowed(), 4)
        for case in cases():
            outcome = load.generated(running.target, case, 20, 0.5, 4)
            assert (outcome.answered, outcome.errors) == (10, 0)
    finally:
        running.stop()
    assert not inside(tmp_path)


def test_an_absent_peer_is_named_and_its_script_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BIFROST_BENCH_CACHE", str(tmp_path))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert {"envoy", "litellm", "portkey"} <= set(roster.absent())
    assert roster.versions()["portkey"] is None
    command = [sys.executable, "-m", "benchmarks.peers.litellm", "start", "--upstream", "a:1"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, cwd=ROOT)
    assert done.returncode == 1
    assert done.stderr.strip().endswith("litellm is not installed")


def test_envoy_is_told_where_the_provider_is() -> None:
    resources = configuration(8080, "127.0.0.1:9000")["static_resources"]
    text = json.dumps(resources["clusters"])
    assert '"port_value": 9000' in text and "8080" not in text
    assert '"port_value": 8080' in json.dumps(resources["listeners"])


def test_the_fixed_provider_answers_what_clients_understand(tmp_path: Path) -> None:
    source = provider(tmp_path, Cores.allowed().load)
    try:
        for case in cases():
            with socket.create_connection(("127.0.0.1", source.target.port), 10) as sock:
                sock.sendall(source.target.message(case))
                got = b""
                while not got.endswith((b"}", b"0\r\n\r\n")) or b"\r\n\r\n" not in got:
                    got += sock.recv(65536)
            head, _, body = got.partition(b"\r\n\r\n")
            assert head.startswith(b"HTTP/1.1 200")
            if case.stream:
                assert b"chunked" in head and b"message_stop" in body
            else:
                assert json.loads(body)["usage"]["output_tokens"] > 0
    finally:
        source.stop()


def test_every_stream_of_a_crowd_is_checked(tmp_path: Path) -> None:
    folder = tmp_path / "pacer"
    pacing = Pacing(6, folder, Cores.allowed().load)
    try:
        message = pacing.target.message(cases()[2])
        asked = crowd.Plan(host="127.0.0.1", port=pacing.target.port, message=message,
                           streams=60, chunks=6)  # fmt: skip
        outcome = crowd.Crowd(asked).run()
        assert (outcome.whole, outcome.lost, outcome.events) == (60, 0, 360)
        assert outcome.delay.p50 > 0
        short = crowd.Crowd(msgspec.structs.replace(asked, chunks=7, streams=2)).run()
        assert (short.whole, short.lost) == (0, 2)
    finally:
        pacing.stop()


def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    core = Cores.allowed().load
    with pytest.raises(BenchError, match="no such plan|No such file"):
        finish([*COMMAND[:2], "benchmarks.openloop", "no-such-plan"], core, 20)
    server = Server("broken", [sys.executable, "-c", "print('out of luck')"], tmp_path, core)
    with pytest.raises(BenchError, match="out of luck"):
        server.await_output("ready")
    server.stop()


def sample(target: str, cpu: float, p50: float = 0.0, **changes: Any) -> Sample:
    """A sample of the open loop."""
    values = {"cpu_us": cpu, "p50_us": p50}
    base = Sample(measure="open", case="json-1k", target=target, repeat=0, values=values, rate=500)
    return msgspec.structs.replace(base, **changes)


def report(samples: list[Sample], **changes: Any) -> Report:
    """A report of these samples."""
    facts = {"commit": "abc", "cpu": "a CPU", "cores": 2, "kernel": "6", "python": "CPython",
             "packages": {}, "peers": {"nginx": None}, "wrk": None, "store": "ext4",
             "proxy_core": 0, "load_core": 1}  # fmt: skip
    base = Report(
        started="2026-11-24T03:00:00+00:00", seconds=1.0, options=Options(seconds=1, repeats=1),
        machine=dict(facts), load_average=(0, 0), stolen_seconds=0, absent=(), errors=(),
        summary=summarise(samples), samples=tuple(samples),
    )  # fmt: skip
    return msgspec.structs.replace(base, **changes)


def test_a_row_is_compared_with_direct_and_nginx_of_its_own_repeat() -> None:
    row = [sample("direct", 20, 100), sample("bifrost", 90, 350), sample("nginx", 30, 200)]
    direct, bifrost, peer = compared(row)
    assert "added_p50_us" not in direct.values
    assert bifrost.values["added_p50_us"] == 250
    assert bifrost.values["x_cpu"] == 3
    assert peer.values["added_p50_us"] == 100


def test_repeats_are_summed_up_as_median_and_range() -> None:
    runs = [sample("bifrost", cpu) for cpu in (90.0, 70.0, 80.0)]
    missed = sample("bifrost", 900.0, reached=False)
    (row,) = summarise([*runs, missed])
    assert (row.repeats, row.reached) == (4, 3)
    figure = row.values["cpu_us"]
    assert (figure.median, figure.least, figure.most) == (80, 70, 90)
    text = markdown(report([*runs, missed]))
    assert "80.0 (70.0–90.0)" in text
    assert "500 (3 of 4 reached)" in text


def test_what_is_absent_or_went_wrong_is_said() -> None:
    text = markdown(report([sample("bifrost", 1)], absent=("nginx",), errors=("3 answers",)))
    assert "**nginx is not installed: not measured**" in text
    assert "**error: 3 answers**" in text


def test_runs_of_one_commit_are_joined_and_drawn(tmp_path: Path) -> None:
    rows = [sample("direct", 20, 100), sample("bifrost", 90, 350), sample("nginx", 30, 200)]
    first = report(
        compared([msgspec.structs.replace(row, measure="closed", rate=0) for row in rows])
    )
    second = report(compared(rows), errors=("3 answers",))
    path = write(join([first, second]), tmp_path)
    assert len(read(path).samples) == 6
    text = (tmp_path / "latest.md").read_text()
    assert "## Latency" in text and "## CPU per request" in text and "3 answers" in text
    pytest.importorskip("matplotlib", reason="NOT TESTED: no plots without matplotlib")
    assert (tmp_path / "latest.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "latest.svg").read_text()
    assert "latest.svg" in text
    other = report([], machine={**first.machine, "commit": "def"})
    with pytest.raises(BenchError, match="different commits"):
        join([first, other])


def test_the_readme_shows_the_figures_of_the_result_it_names() -> None:
    found = readme.BLOCK.search(readme.README.read_text())
    assert found is not None
    assert found[2] == readme.block(read(ROOT / found[1])), "python -m benchmarks.readme RESULT"


def test_memory_that_only_grew_at_first_is_flat() -> None:
    flat = [(float(at), min(50.0 + at, 60.0)) for at in range(100)]
    assert growth(flat) == {"first_mb": 54.5, "last_mb": 60.0, "growth_share": 0.0}
    leak = [(float(at), 50.0 + at) for at in range(100)]
    assert growth(leak)["growth_share"] > 0.3


def test_a_soak_is_only_run_when_asked_for() -> None:
    assert options([])[0].measures == MEASURES
    assert "soak" not in MEASURES
    assert options(["--only", "soak", "--minutes", "3"])[0].minutes == 3
    with pytest.raises(SystemExit):
        options(["--minutes", "0"])


def test_only_a_full_run_writes_by_itself() -> None:
    assert options([])[1] == RESULTS
    assert options(["--quick"])[1] is options(["--only", "open"])[1] is None
    assert options(["--quick", "--out", "there"])[1] == Path("there")
    with pytest.raises(SystemExit):
        options(["--seconds", "0"])


def inside(folder: Path) -> list[int]:
    """Ids of the processes that work in ``folder``."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                if Path(os.readlink(entry / "cwd")).is_relative_to(folder):
                    found.append(int(entry.name))
            except OSError:
                continue
    return found


def test_a_short_run_measures_governance_inside_the_gateway(tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = subprocess.run(
        [*COMMAND, "--quick", "--seconds", "0.3", "--only", "governance", "--out", str(out)],
        capture_output=True, text=True, timeout=60, cwd=ROOT, check=False,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    (path,) = out.glob("*.json")
    written = msgspec.json.decode(path.read_bytes(), type=Report)
    assert written.errors == ()
    row = next(row for row in written.summary if row.measure == "governance")
    assert row.target == "bifrost"
    timed = row.values["governance_count"].median
    asked = row.values["requests"].median + 1  # and the one that found the gateway ready
    assert timed == asked == row.values["settle_count"].median > 1
    for name in ("governance_p50_us", "admit_p99_us", "settle_mean_us", "cpu_us", "steward_us"):
        assert row.values[name].median > 0, name
    assert {"cpu", "kernel", "python", "packages", "commit"} <= written.machine.keys()
    assert (out / "latest.md").read_text().startswith(done.stdout)
    assert not inside(tmp_path)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_nothing_behind(tmp_path: Path, number: int) -> None:
    running = subprocess.Popen(
        [*COMMAND, "--seconds", "60", "--only", "stream", "--out", str(tmp_path / "out")],
        stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True, cwd=ROOT,
        env={**os.environ, "TMPDIR": str(tmp_path)},
    )  # fmt: skip
    assert running.stderr is not None
    deadline = time.monotonic() + 30
    while len(inside(tmp_path)) < 4 and time.monotonic() < deadline:
        time.sleep(0.05)
    running.send_signal(number)
    try:
        assert running.wait(30) == 130
        said = running.stderr.read()
    finally:
        running.kill()
        running.wait()
        running.stderr.close()
    assert "nothing is written" in said
    assert not inside(tmp_path)
    assert not list(tmp_path.glob("*bench*"))
    assert not (tmp_path / "out").exists()


def test_the_usage_view_is_filled_and_asked(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "log").mkdir()
    view.rebuilt(tmp_path / "log", 300)
    assert "rebuild: 300 entries" in capsys.readouterr().out
    filled = view.UsageView(tmp_path)
    for batch in view.batches(1500, view.DAYS, 256):
        filled.apply(batch, batch[-1][0] + 1)
    filled.close()
    found = {name: view.timed(question, 1)[3] for name, question in view.questions(tmp_path)}
    assert found["logs, 100 by no filter"] == found["/api/logs, 100"] == 100
    assert found["totals by model, 89 days"] == len(view.MODELS)


def test_every_way_of_a_stream_has_a_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(translating, "EVENTS", 20)
    rows = [row.split(" | ")[0].removeprefix("| ") for row in translating.table(1).splitlines()[2:]]
    hosts, clients = set(TO_HOSTS), set(FROM_CLIENTS)
    ways = {f"{client} on {host}" for client in clients for host in hosts | {"messages"}}
    ways |= {f"messages on {host}" for host in hosts}
    assert ways <= {*rows} and len(rows) == len({*rows})
