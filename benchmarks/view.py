"""The usage view on a million requests: what adding an event costs and how long questions take.

    python -m benchmarks.view [--requests 1000000] [--data-dir DIR] [--against CHECKOUT]

A million requests over 90 days, of 1,000 keys, 500 users, 50 teams and 6 models, are added as the
steward adds them. Questions are asked as the API asks them, each on a connection of its own, and
timed 20 times. ``--against`` names another checkout, compiled: both
programs then add the same events in turns, and the ratio of their processor time is shown.
"""

from __future__ import annotations

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing
from itertools import combinations, islice
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec

from bifrost.admin import reports
from bifrost.audit import events
from bifrost.audit.events import ModelAccess
from bifrost.audit.log import Log
from bifrost.usage.rebuild import rebuild
from bifrost.usage.view import GROUPS, Filters, UsageView

HOUR = 3_600_000_000_000
DAY = 24 * HOUR
END = 1_790_000_000_000_000_000
DAYS = 90
BATCH = 256
ROUND = 16_384  # events one program adds before it is the other's turn
KEYS, USERS, TEAMS, CUSTOMERS = 1_000, 500, 50, 5
MODELS = (
    ("claude-sonnet-4-5", "anthropic"),
    ("claude-haiku-4-5", "anthropic"),
    ("claude-opus-4-5", "anthropic"),
    ("us.anthropic.claude-sonnet-4-6", "bedrock"),
    ("gpt-6", "openai"),
    ("gemini-3-pro", "gemini"),
)
ENDS = (("ok", 200, None, 93), ("error", 529, None, 2), ("cut", 200, None, 3),
        ("refused", 402, "budget_exceeded", 2))  # fmt: skip


def requests(count: int, days: float = DAYS) -> Iterator[ModelAccess]:
    """Requests of an organisation, by far not everybody as busy as the busiest.

    Six of seven fall on working days from 6 to 18 o'clock UTC, the others at any time.
    """
    chance = random.Random(7)
    ids = {
        prefix: [f"{prefix}_{chance.getrandbits(64):016x}" for _ in range(size)]
        for prefix, size in (("vk", KEYS), ("usr", USERS), ("team", TEAMS), ("cus", CUSTOMERS))
    }
    outcomes = chance.choices(ENDS, [end[3] for end in ENDS], k=4096)
    for at in sorted(moment(chance, days) for _ in range(count)):
        key = min(int(chance.expovariate(4 / KEYS)), KEYS - 1)
        user = key % USERS
        team = user % TEAMS
        model, provider = MODELS[min(int(chance.expovariate(0.7)), len(MODELS) - 1)]
        outcome, status, code, _ = chance.choice(outcomes)
        passed = outcome in ("ok", "cut")
        yield ModelAccess(
            at=at,
            request=f"{chance.getrandbits(128):032x}",
            key=ids["vk"][key], user=ids["usr"][user], team=ids["team"][team],
            customer=ids["cus"][team % CUSTOMERS], asked=model, model=model, provider=provider,
            outcome=outcome, status=status, code=code, stream=True,
            in_fresh=chance.randrange(3_000) if passed else 0,
            in_cache_read=chance.randrange(100_000) if passed else 0,
            in_cache_w5m=chance.randrange(5_000) if passed else 0,
            out_text=chance.randrange(2_000) if passed else 0,
            cost=int(chance.expovariate(1e-7)) if passed else 0,
            source="reported", session=f"{chance.getrandbits(128):032x}",
            took_ns=chance.randrange(10**10), first_byte_ns=chance.randrange(10**9),
            prices="0123456789abcdef", agent="claude-cli/2.1.330",
        )  # fmt: skip


def moment(chance: random.Random, days: float) -> int:
    """When a request happens."""
    while True:
        at = END - chance.randrange(int(days * DAY))
        if days < 7:
            return at
        working = at // DAY % 7 not in (2, 3) and 6 <= at % DAY // HOUR < 18  # day 0: Thursday
        if working or chance.random() < 0.1:
            return at


def batches(count: int, days: float, size: int) -> Iterator[list[tuple[int, ModelAccess]]]:
    """The same events with their positions, as the steward takes them from the log."""
    numbered = enumerate(requests(count, days))
    while batch := list(islice(numbered, size)):
        yield batch


def feed(data_dir: Path, count: int, days: float, size: int) -> None:
    """For each line of input adds a round of events; answers how many and the ns they took."""
    view = UsageView(data_dir)
    waiting = batches(count, days, size)
    for _ in sys.stdin:
        done = spent = 0
        for batch in islice(waiting, ROUND // size):
            begun = time.process_time_ns()
            view.apply(batch, batch[-1][0] + 1)
            spent += time.process_time_ns() - begun
            done += len(batch)
        print(done, spent, flush=True)
    view.close()


class Feeder:
    """A process of one checkout that adds events when told."""

    def __init__(self, checkout: Path, data_dir: Path, told: Sequence[str]) -> None:
        self.spent: list[tuple[int, int]] = []
        self._process = subprocess.Popen(
            [sys.executable, "-P", __file__, "--feed", str(data_dir), *told],
            env={**os.environ, "PYTHONPATH": str(checkout)},
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip

    def turn(self) -> bool:
        """Adds a round; False when there is nothing left."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        done, spent = map(int, self._process.stdout.readline().split())
        if done:
            self.spent.append((done, spent))
        return bool(done)

    def close(self) -> None:
        """Lets it end by itself."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        if self._process.wait():
            raise SystemExit("a process that adds events failed")

    def cost(self, rounds: slice = slice(None)) -> float:
        """µs of processor time per event."""
        events, spent = map(sum, zip(*self.spent[rounds], strict=True))
        return spent / events / 1e3


def intake(data_dir: Path, count: int, days: float, size: int, against: Path | None) -> None:
    """Adds events with this program and the other in turns, and prints what they took."""
    told = ["--requests", str(count), "--days", str(days), "--batch", str(size)]
    here = Path(__file__).parent.parent
    with tempfile.TemporaryDirectory(dir=data_dir.parent) as other:
        programs = [Feeder(here, data_dir, told)]
        if against is not None:
            programs.append(Feeder(against, Path(other), told))
        turn = 0
        while all([program.turn() for program in programs[:: -1 if turn % 2 else 1]]):
            turn += 1
        for program in programs:
            program.close()
    mine, *others = programs
    span = f"{days:g} days" if days >= 1 else f"{days * 1440:g} minutes"
    print(
        f"{count:,} events of {span} in batches of {size}: {mine.cost():.1f} µs each,"
        f" {mine.cost(slice(-4, None)):.1f} at the end",
        end="",
    )
    for one in others:
        pairs = zip(mine.spent, one.spent, strict=True)
        ratio = statistics.median(new[1] / old[1] for new, old in pairs)
        print(
            f"; before {one.cost():.1f}, {one.cost(slice(-4, None)):.1f} at the end;"
            f" new/before {ratio:.2f} (median of {len(one.spent)} rounds)",
            end="",
        )
    print(flush=True)


def rebuilt(folder: Path, count: int) -> None:
    """Writes a log of events and builds a view from it."""
    log = Log(folder)
    for batch in batches(count, DAYS, 2048):
        log.append([events.encode(event) for _, event in batch])
    log.close()
    begun = time.perf_counter()
    done = rebuild(folder, ())
    took = time.perf_counter() - begun
    print(f"rebuild: {done:,} entries in {took:.1f} s, {done / took:,.0f} a second", flush=True)


def view_ids(view: UsageView) -> list[tuple[str, str]]:
    """The ids that occur among the newest requests, with a kind."""
    found: dict[str, str] = {}
    for one in view.logs(Filters(), 1000).requests:
        for kind in ("key", "user", "team", "customer"):
            party = getattr(one, kind)
            found[party.id] = kind
    return list(found.items())


def timed(question: Callable[[], Any], times: int) -> tuple[float, float, float, int]:
    """The median and the worst by the clock and the median of processor time, all in ms, and how
    many rows the answer has."""
    walls, spent, size = [], [], 0
    for _ in range(times):
        begun, worked = time.perf_counter(), time.process_time()
        answer = question()
        walls.append((time.perf_counter() - begun) * 1e3)
        spent.append((time.process_time() - worked) * 1e3)
        size = rows(answer)
    return statistics.median(walls), max(walls), statistics.median(spent), size


def rows(answer: Any) -> int:
    """How many rows an answer has."""
    if hasattr(answer, "requests") and isinstance(answer.requests, list):
        return len(answer.requests)
    if isinstance(answer, bytes):
        document = msgspec.json.decode(answer)
        return len(document.get("rows", document.get("items", ())))
    if isinstance(answer, list):
        return sum(len(one.rows) if hasattr(one, "rows") else 1 for one in answer)
    return 1


def questions(data_dir: Path) -> Iterator[tuple[str, Callable[[], Any]]]:
    """What a report, the command line and the console ask."""

    def fresh(ask: Callable[[UsageView], Any]) -> Callable[[], Any]:
        def question() -> Any:
            with closing(UsageView(data_dir, read_only=True)) as view:
                return ask(view)

        return question

    now = END + 1
    odd = 1_234_567_890_123  # windows begin in the middle of an hour
    month, quarter = now - 30 * DAY - odd, now - 89 * DAY - odd
    for days, since in ((30, month), (89, quarter)):
        for by in [(group,) for group in GROUPS] + [*combinations(GROUPS[:4], 2), GROUPS]:
            yield (
                f"totals by {', '.join(by)}, {days} days",
                fresh(lambda view, by=by, since=since: view.totals(by, since, now)),
            )
    series: list[tuple[tuple[str, ...], int, str, str]] = [
        (("model",), now - DAY, "1h", "UTC"), (("key",), now - DAY, "1h", "Asia/Kolkata"),
        (("team",), now - 7 * DAY, "1h", "UTC"), (("model",), quarter, "1h", "UTC"),
        (("team",), quarter, "1w", "Europe/Berlin"), (("key",), quarter, "1M", "UTC"),
        (("user", "model"), quarter, "1M", "America/New_York"),
    ]  # fmt: skip
    for zone in ("UTC", "Europe/Berlin", "Asia/Kolkata"):
        for group in ("team", "model", "provider", "customer"):
            series.append(((group,), quarter, "1d", zone))
    series += [(("key",), now - 7 * DAY, "1d", "UTC"), (("user",), month, "1d", "UTC"),
               (("key",), month, "1d", "UTC"), (("key",), quarter, "1d", "UTC")]  # fmt: skip
    for by, since, interval, zone in series:
        yield (
            f"series by {', '.join(by)}, {round((now - since) / DAY)} days by {interval}, {zone}",
            fresh(lambda v, b=by, s=since, i=interval, z=zone: v.series(b, s, now, i, z)),
        )
    with closing(UsageView(data_dir, read_only=True)) as view:
        lists = {name: filters for name, filters in wanted(view, now).items()}
        deep = view.logs(lists["team"], 1000).cursor
    for name, filters in lists.items():
        yield f"logs, 100 by {name}", fresh(lambda view, f=filters: view.logs(f, 100))
    yield "logs, 1,000 without filter", fresh(lambda view: view.logs(Filters(), 1000))
    yield "logs, 100 behind a cursor", fresh(lambda view: view.logs(lists["team"], 100, deep))
    lost = lists["request id"].request or ""
    yield "one request", fresh(lambda view: view.request(lost))
    yield "what came since", fresh(lambda view: view.after(view.last() - 50, Filters()))
    house: Any = SimpleNamespace(data_dir=data_dir)
    since_text, until_text = reports.timestamp(month), reports.timestamp(now)
    asked: dict[str, tuple[Any, Any]] = {
        "/api/usage by team, 30 days": (reports.usage, {"by": ("team",)}),
        "/api/usage by team, 30 days by 1d": (
            reports.usage, {"by": ("team",), "interval": "1d", "time_zone": "Europe/Berlin"},
        ),
        "/api/logs, 100": (reports.logs, {}),
    }  # fmt: skip
    for name, (handler, given) in asked.items():
        kind = reports.UsageQuery if handler is reports.usage else reports.LogsQuery
        query = kind(**given, since=since_text, until=until_text)
        yield (
            name,
            lambda h=handler, q=query: msgspec.json.encode(
                h(house, SimpleNamespace(query=q)).value
            ),
        )


def wanted(view: UsageView, now: int) -> dict[str, Filters]:
    """Filters by name; the values occur, some of them seldom."""
    some = view.logs(Filters(), 1000).requests
    seen = [one.key.id for one in some if one.key]
    seldom = min(set(seen), key=seen.count)
    rare, old = some[777], view.logs(Filters(until=now - 85 * DAY), 1).requests[0]
    dear = max(one.cost for one in some) * 2
    assert rare.user and rare.team and rare.customer
    return {
        "no filter": Filters(),
        "an hour 60 days ago": Filters(since=now - 60 * DAY, until=now - 60 * DAY + HOUR),
        "key": Filters(key=seldom),
        "user": Filters(user=rare.user.id),
        "team": Filters(team=rare.team.id),
        "team by name": Filters(team=rare.team.name),
        "customer": Filters(customer=rare.customer.id),
        "model": Filters(model="gemini-*"),
        "provider": Filters(provider="bedrock"),
        "status": Filters(status=529),
        "outcome": Filters(outcome="refused"),
        "code": Filters(code="budget_exceeded"),
        "min_cost": Filters(min_cost=dear),
        "key and status": Filters(key=seldom, status=529),
        "key, model and 80 days ago": Filters(key=seldom, model="gpt*", until=now - 80 * DAY),
        "key and min_cost": Filters(key=seldom, min_cost=dear // 2),
        "status that never was": Filters(status=418),
        "cost that never was": Filters(min_cost=10**12),
        "key and cost that never was": Filters(key=seldom, min_cost=dear * 2),
        "request id": Filters(request=old.request),
        "key that never was": Filters(key="vk_none"),
    }


def build(data_dir: Path, count: int, against: Path | None) -> None:
    """Makes the view of the questions, and what goes with it."""
    with ExitStack() as stack:
        for days, size in ((1 / 1440, 2048), (1 / 24, 16)):
            folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            intake(folder, min(count, 131_072), days, size, against)
        log_dir = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        rebuilt(log_dir, min(count, 262_144))
    intake(data_dir, count, DAYS, BATCH, against)
    view = UsageView(data_dir)
    view.name((key, key.replace("team_", "team ")) for key, _ in view_ids(view))
    view.close()
    size = (data_dir / "usage.db").stat().st_size
    print(f"on disk: {size / 1e6:.0f} MB, {size / count:.0f} bytes a request", flush=True)


def main() -> None:
    """Builds, asks, prints."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--requests", type=int, default=1_000_000)
    parser.add_argument("--data-dir", type=Path, help="keep the database here, or use this one")
    parser.add_argument("--against", type=Path, help="another checkout, for the cost of adding")
    parser.add_argument("--times", type=int, default=20, help="how often each question is asked")
    parser.add_argument("--feed", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--days", type=float, default=DAYS, help=argparse.SUPPRESS)
    parser.add_argument("--batch", type=int, default=BATCH, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.feed:
        feed(options.feed, options.requests, options.days, options.batch)
        return
    with tempfile.TemporaryDirectory() as folder:
        data_dir = options.data_dir or Path(folder) / "view"
        data_dir.mkdir(parents=True, exist_ok=True)
        if not (data_dir / "usage.db").exists():
            build(data_dir, options.requests, options.against)
        print("  p50 ms    worst  processor     rows")
        slowest = 0.0
        for name, question in questions(data_dir):
            median, worst, spent, size = timed(question, options.times)
            slowest = max(slowest, median)
            print(f"{median:8.1f} {worst:8.1f} {spent:10.1f} {size:8,}  {name}", flush=True)
        print(f"the slowest: {slowest:.1f} ms")


if __name__ == "__main__":
    main()
