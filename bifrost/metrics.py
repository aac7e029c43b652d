"""``/metrics``: what all processes of the data directory counted, in Prometheus' text form.

Any worker may be asked: counters and histograms are sums over all processes there ever were. Times
are seconds, money is USD. How many series there can be does not depend on keys or on clients.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import msgspec

from bifrost._fast.meters import PLACES, QUICK_NS, SLOW_NS
from bifrost._fast.timing import Timing
from bifrost.alerts import reached
from bifrost.alerts.thresholds import LEVEL
from bifrost.audit.condition import lags_ns, local_bytes
from bifrost.audit.log import FOLDER, Reader
from bifrost.core import Core
from bifrost.errors import BifrostError
from bifrost.exports.progress import standings
from bifrost.governance.budgets import budget_window, limit_at
from bifrost.governance.entities import KINDS, id_number
from bifrost.meters import GAUGES, TIMINGS, Page, pages
from bifrost.money import usd as decimal  # nanoseconds too
from bifrost.webhooks import queue

log = logging.getLogger("bifrost.metrics")
QUANTILES = (0.5, 0.9, 0.99, 0.999)
OUTCOMES = ("ok", "error", "cut", "broken", "unsettled")
TOKENS = ("input", "cache_read", "cache_write_5m", "cache_write_1h", "output", "thinking")
STATES = ("active", "idle", "waiting")
FAILING = ("held", "lacking")
MOST_BUDGETS = 100  # of customers and of teams each, by name, that have a series of their own

Labels = tuple[tuple[str, str], ...]
Sample = tuple[str, Labels, str]  # what is appended to the name, labels, value


class Family(msgspec.Struct, frozen=True):
    """One metric: its name without ``bifrost_``, Prometheus' type, label names, what it says."""

    name: str
    kind: str
    labels: tuple[str, ...]
    says: str


FAMILIES = tuple(
    Family(*row)
    for row in (
        ("workers", "gauge", (), "Worker processes that live."),
        ("calls_in_flight", "gauge", (), "Requests to models under way."),
        ("requests_total", "counter", ("provider", "model", "outcome"),
         "Admitted requests that ended: ok, error, cut, broken, unsettled."),
        ("refusals_total", "counter", ("code",), "Requests that were refused, by x-bf-error."),
        ("tokens_total", "counter", ("provider", "model", "kind"), "Tokens, as they are billed."),
        ("web_searches_total", "counter", ("provider", "model"), "Web searches of the provider."),
        ("cost_usd_total", "counter", ("provider", "model"), "USD that were charged."),
        ("request_seconds", "histogram", ("provider", "model"),
         "From the whole request to the end of its answer."),
        ("first_byte_seconds", "histogram", ("provider", "model"),
         "From the whole request to the head of the answer."),
        ("overhead_seconds", "histogram", (),
         "What the gateway adds to a request: its whole time less its provider's."),
        ("gate_seconds", "summary", (), "The two transactions of a request: admit and settle."),
        ("admit_seconds", "summary", (), "Identify, route, price and reserve, per request."),
        ("settle_seconds", "summary", (), "Meter, price and settle, per request."),
        ("governance_seconds", "summary", (), "Admit and settle together, per request."),
        ("reservations", "gauge", (), "Requests for which money is held."),
        ("reserved_usd", "gauge", (), "USD held for requests under way."),
        ("waiting_requests", "gauge", (), "Requests that wait for a tight budget."),
        ("budgets", "gauge", ("level",), "Budgets there are."),
        ("budgets_reached", "gauge", ("level", "percent"),
         "Budgets that reached a threshold in their present window."),
        ("budget_used_ratio", "gauge", ("level", "owner", "budget"),
         "Share of a customer's or team's budget that is spent in its present window."),
        ("upstream_connections", "gauge", ("upstream", "state"),
         "Connections to a provider: active, idle; and requests waiting for one."),
        ("upstream_opened_total", "counter", ("upstream",), "Connections opened to a provider."),
        ("upstream_reused_total", "counter", ("upstream",), "Requests that found one open."),
        ("attempts_failed_total", "counter", ("provider", "model", "fault"),
         "Attempts that failed where there was a choice: unreached, silent, failing, limited,"
         " denied."),
        ("hedges_total", "counter", ("outcome",),
         "Hedges: won, lost, failed; and those not sent: limited, unaffordable."),
        ("targets_resting", "gauge", ("provider", "key", "model"),
         "Workers in which it rests because it failed; * is every key or model."),
        ("provider_credential_failures_total", "counter", ("provider",),
         "Renewals of what a provider in a cloud is shown that failed."),
        ("provider_credentials_failing", "gauge", ("provider", "state"),
         "Workers whose last renewal failed: with the old credential (held) or without one"
         " (lacking)."),
        ("steward_lag_seconds", "gauge", (), "Age of the oldest event not yet in the audit log."),
        ("audit_log_entries", "gauge", (), "Entries on the disk."),
        ("audit_log_bytes", "gauge", (), "Size of the audit log's segments beside the gateway."),
        ("audit_log_barred", "gauge", (), "1 while it cannot be written and nobody is let in."),
        ("audit_overdue_seconds", "gauge", ("step",),
         "How long the oldest segment should have been archived, or removed (prune)."),
        ("webhook_messages", "gauge", ("webhook", "state"), "Messages that wait or were given up."),
        ("export_lag_entries", "gauge", ("sink",), "Entries of the audit log a sink lacks."),
        ("export_lag_seconds", "gauge", ("sink",), "Age of the oldest of them, once it failed."),
        ("export_entries_total", "counter", ("sink",), "Entries a sink took."),
        ("export_dead_letters", "gauge", ("sink",), "Entries a sink refused for good."),
        ("export_removed_entries", "gauge", ("sink",), "Entries it lacks that retention removed."),
        ("export_failures", "gauge", ("sink",), "Attempts that failed in a row."),
    )
)  # fmt: skip


class Pulse:
    """Tells the other processes, once a second, how it is in this one."""

    def __init__(self, core: Core, calls: Callable[[], int]) -> None:
        """``calls()`` is how many are under way."""
        self._core = core
        self._calls = calls
        self._seen: dict[int, tuple[int, int]] = {}  # of each pool: opened, reused
        self._rested: set[tuple[str, ...]] = set()
        self._proven: dict[str, tuple[int, int]] = {}  # by provider: its proof, its failures

    def beat(self) -> None:
        """How it is now."""
        meters = self._core.meters
        meters.live()
        meters.meter("worker").set(0, self._calls())
        self._rests()
        self._proves()
        states: dict[str, list[int]] = {}
        seen = {}
        for authority, pool in self._core.upstreams.pools():
            found: Any = pool
            opened, reused = getattr(found, "opened_total", 0), getattr(found, "reused_total", 0)
            before = self._seen.get(id(pool), (0, 0))
            seen[id(pool)] = (opened, reused)
            row = states.setdefault(authority, [0] * 5)
            now = (
                *(getattr(found, state, 0) for state in STATES),
                opened - before[0],
                reused - before[1],
            )
            for place, number in enumerate(now):
                row[place] += number
        self._seen = seen
        for authority, row in states.items():
            meter = meters.meter("upstream", authority)
            for place, number in enumerate(row):
                (meter.set if place < len(STATES) else meter.add)(place, number)

    def _rests(self) -> None:
        """Which targets rest in this process."""
        resting = {
            tuple(name or "*" for name in part)
            for part in self._core.health.resting(time.monotonic_ns())
        }
        for names in self._rested | resting:
            self._core.meters.meter("resting", *names).set(0, int(names in resting))
        self._rested = resting

    def _proves(self) -> None:
        """Which providers in a cloud get no new credential."""
        proven = {}
        for name, tokens in self._core.credentials():
            proven[name] = (id(tokens), tokens.failures)
            meter = self._core.meters.meter("credential", name)
            failing = tokens.error is not None
            meter.set(0, int(failing and not tokens.lacking))
            meter.set(1, int(tokens.lacking))
            which, before = self._proven.get(name, (0, 0))
            meter.add(len(FAILING), tokens.failures - (before if which == id(tokens) else 0))
        for name in self._proven.keys() - proven.keys():
            for place in range(len(FAILING)):
                self._core.meters.meter("credential", name).set(place, 0)
        self._proven = proven


class Sums:
    """The sums over all processes: rows by kind and labels."""

    def __init__(self, found: Sequence[Page]) -> None:
        self.workers = 0
        self._rows: dict[str, dict[tuple[str, ...], list[int]]] = {}
        self.timings = {name: Timing() for name in TIMINGS}
        for page in found:
            lives = page.lives()
            for (kind, *labels), numbers in page.rows():
                if kind == "worker":
                    self.workers += lives
                if not lives:
                    for place in GAUGES.get(kind, ()):
                        numbers[place] = 0
                kept = self._rows.setdefault(kind, {})
                sums = kept.setdefault(tuple(labels), [0] * len(numbers))
                sums[:] = map(int.__add__, sums, numbers)
            for name, timing in self.timings.items():
                timing.merge(page.timing(name))

    def rows(self, kind: str) -> Iterator[tuple[tuple[str, ...], list[int]]]:
        """(labels, numbers) of a kind, sorted by labels."""
        yield from sorted(self._rows.get(kind, {}).items())


def exposition(core: Core) -> str:
    """The page, made outside of the event loop; what cannot be read is left out and logged."""
    found = pages(core.data_dir)
    if core.meters.path is None:
        found.append(core.meters.page())
    sums = Sums(found)
    samples: dict[str, list[Sample]] = {}
    for part in (_requests, _processes):
        samples |= part(sums)
    for look in (_money, _budgets, _log, _webhooks, _exports):
        try:
            samples |= look(core)
        except (BifrostError, OSError) as error:
            log.error("figures are missing", extra={"error": str(error)})
    lines = []
    for family in FAMILIES:
        name = f"bifrost_{family.name}"
        lines += [f"# HELP {name} {family.says}", f"# TYPE {name} {family.kind}"]
        lines += [_line(name, *sample) for sample in samples.get(family.name, ())]
    return "\n".join(lines) + "\n"


def _line(name: str, suffix: str, labels: Labels, value: str) -> str:
    inside = ",".join(f'{label}="{_escaped(text)}"' for label, text in labels)
    return f"{name}{suffix}{{{inside}}} {value}" if inside else f"{name}{suffix} {value}"


def _escaped(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _histogram(numbers: Sequence[int], bounds: Sequence[int], labels: Labels = ()) -> list[Sample]:
    total = 0
    made: list[Sample] = []
    edges = [*(f"{bound / 1e9:g}" for bound in bounds), "+Inf"]
    for edge, count in zip(edges, numbers[1:], strict=False):
        total += count
        made.append(("_bucket", (*labels, ("le", edge)), str(total)))
    return [*made, ("_sum", labels, decimal(numbers[0])), ("_count", labels, str(total))]


def _requests(sums: Sums) -> dict[str, list[Sample]]:
    """What the rows of models say."""
    made: dict[str, list[Sample]] = {}
    at = PLACES

    def several(
        name: str, who: Labels, label: str, values: Iterable[str], numbers: list[int]
    ) -> None:
        rows = zip(values, numbers, strict=False)
        made.setdefault(name, []).extend(("", (*who, (label, v)), str(n)) for v, n in rows)

    for (provider, model), numbers in sums.rows("model"):
        who: Labels = (("provider", provider), ("model", model))
        several("requests_total", who, "outcome", OUTCOMES, numbers[at["outcomes"] :])
        several("tokens_total", who, "kind", TOKENS, numbers[at["tokens"] :])
        for name, value in (
            ("web_searches_total", str(numbers[at["searches"]])),
            ("cost_usd_total", decimal(numbers[at["cost"]])),
        ):
            made.setdefault(name, []).append(("", who, value))
        for name, place in (("request_seconds", "took"), ("first_byte_seconds", "first_byte")):
            made.setdefault(name, []).extend(_histogram(numbers[at[place] :], SLOW_NS, who))
    return made


def _processes(sums: Sums) -> dict[str, list[Sample]]:
    """What the other rows and the timings say."""
    calls = [numbers[0] for _, numbers in sums.rows("worker")]
    overhead = [numbers for _, numbers in sums.rows("overhead")] or [[0] * (len(QUICK_NS) + 2)]
    upstreams = list(sums.rows("upstream"))
    made: dict[str, list[Sample]] = {
        "workers": [("", (), str(sums.workers))],
        "calls_in_flight": [("", (), str(sum(calls)))],
        "refusals_total": [("", (("code", code),), str(numbers[0]))
                           for (code,), numbers in sums.rows("refusal")],
        "overhead_seconds": _histogram(overhead[0], QUICK_NS),
        "upstream_connections": [("", (("upstream", name), ("state", state)), str(numbers[place]))
                                 for (name,), numbers in upstreams
                                 for place, state in enumerate(STATES)],
    }  # fmt: skip
    made["attempts_failed_total"] = [
        ("", tuple(zip(("provider", "model", "fault"), names, strict=True)), str(numbers[0]))
        for names, numbers in sums.rows("fault")
    ]
    made["hedges_total"] = [
        ("", (("outcome", outcome),), str(numbers[0])) for (outcome,), numbers in sums.rows("hedge")
    ]
    made["targets_resting"] = [
        ("", tuple(zip(("provider", "key", "model"), names, strict=True)), str(numbers[0]))
        for names, numbers in sums.rows("resting")
    ]
    credentials = list(sums.rows("credential"))
    made["provider_credential_failures_total"] = [
        ("", (("provider", name),), str(numbers[len(FAILING)])) for (name,), numbers in credentials
    ]
    made["provider_credentials_failing"] = [
        ("", (("provider", name), ("state", state)), str(numbers[place]))
        for (name,), numbers in credentials
        for place, state in enumerate(FAILING)
    ]
    for place, what in enumerate(("opened", "reused"), len(STATES)):
        made[f"upstream_{what}_total"] = [
            ("", (("upstream", name),), str(numbers[place])) for (name,), numbers in upstreams
        ]
    for name, timing in sums.timings.items():
        made[f"{name}_seconds"] = [
            *(("", (("quantile", f"{q}"),), decimal(timing.quantile(q))) for q in QUANTILES),
            ("_sum", (), decimal(timing.total_ns)),
            ("_count", (), str(timing.count)),
        ]
    return made


def _money(core: Core) -> dict[str, list[Sample]]:
    """What is under way."""
    many, amount, waiting = core.gate.held()
    return {
        "reservations": [("", (), str(many))],
        "reserved_usd": [("", (), decimal(amount))],
        "waiting_requests": [("", (), str(waiting))],
        "steward_lag_seconds": [("", (), decimal(core.lag_ns(time.time_ns())))],
        "audit_log_barred": [("", (), str(int(core.gate.barred != 0)))],
    }


def _budgets(core: Core) -> dict[str, list[Sample]]:
    """How far budgets are used: of few each, of many how many reached which threshold."""
    now = time.time_ns()
    standing: Mapping[tuple[str, int], int] = reached.standing(core.data_dir, now)
    percents = sorted(core.settings.alerts.budget_thresholds)
    made: dict[str, list[Sample]] = {"budgets": [], "budgets_reached": [], "budget_used_ratio": []}
    for kind in KINDS:
        level, own = LEVEL[kind], MOST_BUDGETS if kind in ("customer", "team") else 0
        page, total = core.directory.pages.budgets((kind,), limit=own)
        made["budgets"].append(("", (("level", level),), str(total)))
        for percent in percents:
            labels = (("level", level), ("percent", str(percent)))
            made["budgets_reached"].append(("", labels, str(standing.get((level, percent), 0))))
        accounts = [(id_number(one.id), budget_window(one, now)[0]) for _, _, one in page]
        for (_, owner, one), cell in zip(page, core.gate.counters(accounts), strict=True):
            limit = limit_at(one, now)[0]
            used = cell[0] / limit if limit else 1.0
            who = (("level", level), ("owner", owner.name), ("budget", one.id))
            made["budget_used_ratio"].append(("", who, f"{used:.6f}"))
    return made


def _log(core: Core) -> dict[str, list[Sample]]:
    folder = core.data_dir / FOLDER
    evidence, late = core.settings.evidence, (0, 0)
    if evidence.keeps:
        late = lags_ns(folder, evidence.retention, time.time_ns())
    return {
        "audit_log_entries": [("", (), str(Reader(core.data_dir).end()))],
        "audit_log_bytes": [("", (), str(local_bytes(folder)))],
        "audit_overdue_seconds": [("", (("step", step),), f"{lag / 1e9:.0f}")
                                  for step, lag in zip(("archive", "prune"), late, strict=True)],
    }  # fmt: skip


def _webhooks(core: Core) -> dict[str, list[Sample]]:
    rows = queue.backlog(core.data_dir).items()
    return {
        "webhook_messages": [
            ("", (("webhook", name), ("state", state)), str(count)) for (name, state), count in rows
        ]
    }


def _exports(core: Core) -> dict[str, list[Sample]]:
    """How far each export has got."""
    made: dict[str, list[Sample]] = {}
    reader, now = Reader(core.data_dir), time.time_ns()
    end, oldest = reader.end(), reader.oldest()
    for one in standings(core.data_dir):
        age = max(0, now - one.waiting_since) if one.waiting_since else 0
        for name, value in (
            ("lag_entries", str(max(0, end - one.position))),
            ("lag_seconds", decimal(age)),
            ("entries_total", str(one.sent)),
            ("dead_letters", str(one.dead)),
            ("removed_entries", str(max(0, oldest - one.position))),
            ("failures", str(one.failures)),
        ):
            made.setdefault(f"export_{name}", []).append(("", (("sink", one.name),), value))
    return made
