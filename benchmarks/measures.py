"""What is measured, in which order: repeats are interleaved, A B C A B C, never A A B B."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from benchmarks.cases import EVENTS, Case, cases, paced
from benchmarks.gathering import gathered
from benchmarks.household import idle, starts
from benchmarks.load import Target
from benchmarks.peers import roster
from benchmarks.peers.peer import Peer
from benchmarks.processes import BenchError
from benchmarks.soak import soak
from benchmarks.stage import Sample, Stage

FEW = 2  # events of the short stream that the long one is compared with
FIRST_BYTE_RATE = 200  # streams/s when the first byte is timed
FULL_RATE = 5000
CROWD = 2000  # streams at the same time
EACH_RATE = 3000  # requests/s of each worker when two are compared with one
TRIES, LEAST_SHARE = 6, 0.25  # until both of two workers have a part of the connections
HOPELESS = 0.9  # of a rate: what stays below it is not tried again


class Measures:
    """Takes the samples of one run; what turns out unreachable is not tried again."""

    def __init__(self, stage: Stage, say: Callable[[str], None]) -> None:
        self._stage = stage
        self._seconds = stage.options.seconds
        self._say = say
        self._unreachable: set[tuple[str, int, str]] = set()
        self._governance_rate = FULL_RATE

    def samples(self) -> Iterator[Sample]:
        """Every sample, repeat by repeat; a short warm-up of each proxy comes before."""
        wanted = self._stage.options.measures
        if {"closed", "single", "open"} & set(wanted):
            for target in self._stage.fixed.targets():
                self._stage.generated(target, cases()[0], 0, min(0.5, self._seconds))
        if "open" in wanted or "governance" in wanted:
            yield self._generator()
        for repeat in range(self._stage.options.repeats):
            for name in wanted:
                self._say(f"repeat {repeat + 1}: {name}")
                yield from getattr(self, f"_{name}")(repeat)

    def _generator(self) -> Sample:
        """How fast the generator and the provider are by themselves on the core they share."""
        case, target = cases()[0], self._stage.fixed.provider.target
        values, _ = self._stage.generated(target, case, 0, self._seconds)
        return Sample(
            measure="generator", case=case.name, target=target.name, repeat=0, values=values
        )

    def _closed(self, repeat: int) -> Iterator[Sample]:
        for case in cases():
            row = []
            for target in self._stage.fixed.targets():
                values = self._stage.closed(target, case, self._seconds)
                row.append(self._sample("closed", case, target.name, repeat, values))
            yield from compared(row)

    def _heavy(self, repeat: int) -> Iterator[Sample]:
        """Slow peers: each is started once, does all its repeats and is ended."""
        if repeat:
            return
        for kind in roster.found(heavy=True):
            try:
                yield from self._one_heavy(kind)
            except BenchError as error:
                self._stage.errors.append(f"{kind.name}: {error}")

    def _one_heavy(self, kind: type[Peer]) -> Iterator[Sample]:
        with self._stage.heavy(kind) as peer:
            values = {"start_ms": peer.start_s * 1e3}
            yield self._sample("start", cases()[0], kind.name, 0, values)
            self._stage.closed(peer.target, cases()[0], self._seconds)
            for number in range(self._stage.options.repeats):
                for case in cases():
                    values = self._stage.closed(peer.target, case, self._seconds)
                    yield self._sample("closed", case, kind.name, number, values)

    def _single(self, repeat: int) -> Iterator[Sample]:
        """One connection that never waits: what a lone client feels."""
        row, case = [], cases()[0]
        for target in self._stage.fixed.targets():
            values, _ = self._stage.generated(target, case, 0, self._seconds, 1)
            row.append(self._sample("single", case, target.name, repeat, values))
        yield from compared(row)

    def _open(self, repeat: int) -> Iterator[Sample]:
        """The small request at every rate for all; the others at the full rate beside nginx."""
        stage = self._stage
        for rate in stage.options.rates:
            targets = stage.fixed.targets()
            yield from compared(list(self._row("open", cases()[0], rate, repeat, targets)))
        if not stage.options.quick:
            targets = stage.fixed.targets("bifrost", "nginx")
            for case in cases()[1:]:
                yield from compared(list(self._row("open", case, FULL_RATE, repeat, targets)))

    def _row(
        self, measure: str, case: Case, rate: int, repeat: int, targets: list[Target]
    ) -> Iterator[Sample]:
        """The same timetable for every target that kept it so far."""
        for target in targets:
            place = (case.name, rate, target.name)
            if place in self._unreachable:
                continue
            values, reached = self._stage.generated(target, case, rate, self._seconds)
            if not reached and values["done_rps"] < HOPELESS * rate:
                self._unreachable.add(place)
            yield self._sample(measure, case, target.name, repeat, values, rate, reached)

    def _governance(self, repeat: int) -> Iterator[Sample]:
        """Admit and settle as the worker itself times them; its histograms start with it.

        So each run has a gateway of its own and no warm-up: the coldest requests are counted too.
        """
        case, rate = cases()[0], self._governance_rate
        for attempt in range(4):
            gateway = self._stage.fresh_gateway(f"governance-{repeat}-{attempt}")
            try:
                values, reached = self._stage.generated(gateway.target, case, rate, self._seconds)
                for name, timing in gateway.timings().items():
                    for figure, value in msgspec.structs.asdict(timing).items():
                        values[f"{name}_{figure}" + ("" if figure == "count" else "_us")] = value
            finally:
                gateway.stop()
            yield self._sample("governance", case, "bifrost", repeat, values, rate, reached)
            if reached:
                return
            hopeless = values["done_rps"] < HOPELESS * rate
            rate = max(int(min(values["done_rps"], rate) * 0.85) // 100 * 100, 100)
            if hopeless:
                self._governance_rate = rate

    def _stream(self, repeat: int) -> Iterator[Sample]:
        """CPU per stream and per event in a closed loop; the first byte on a slow timetable."""
        row = []
        for target in self._stage.paced.proxies():
            long, _ = self._stage.generated(target, paced(EVENTS), 0, self._seconds)
            short, _ = self._stage.generated(target, paced(FEW), 0, self._seconds)
            per_event = (long["cpu_us"] - short["cpu_us"]) / (EVENTS - FEW)
            values = {**long, "short_cpu_us": short["cpu_us"], "event_us": per_event}
            row.append(self._sample("stream", paced(EVENTS), target.name, repeat, values))
        yield from compared(row)
        targets, rate = self._stage.paced.targets(), FIRST_BYTE_RATE
        yield from compared(list(self._row("first", paced(EVENTS), rate, repeat, targets)))

    def _start(self, repeat: int) -> Iterator[Sample]:
        """From the command to the first answer, on a fresh data directory."""
        for name, seconds in starts(self._stage, f"start-{repeat}"):
            yield self._sample("start", cases()[0], name, repeat, {"start_ms": seconds * 1e3})

    def _workers(self, repeat: int) -> Iterator[Sample]:
        """CPU per request of one worker, and of two on different cores with as much for each.

        At the same rate for each, because a worker's request costs more the less it has to do.
        """
        for count in (1, 2):
            name = f"bifrost, {count} worker{'s' * (count > 1)}"
            for attempt in range(TRIES):
                values, kept = self._shared(f"workers-{count}-{repeat}-{attempt}", count)
                both = count == 1 or LEAST_SHARE < values["second_share"] < 1 - LEAST_SHARE
                yield self._sample(
                    "workers", cases()[0], name, repeat, values, EACH_RATE * count, both and kept
                )
                if both:
                    break

    def _shared(self, name: str, count: int) -> tuple[dict[str, float], bool]:
        """One run with so many workers, and who of them did how much."""
        gateway, case = self._stage.fresh_gateway(name, count), cases()[0]
        try:
            self._stage.generated(gateway.target, case, 0, min(0.5, self._seconds), 64)
            rate = EACH_RATE * count
            values, kept = self._stage.generated(gateway.target, case, rate, self._seconds)
        finally:
            gateway.stop()
        second = values.get("worker2_us", 0.0)
        values["each_cpu_us"] = values["cpu_us"] + second
        values["second_share"] = second / values["each_cpu_us"]
        return values, kept

    def _idle(self, repeat: int) -> Iterator[Sample]:
        """What a gateway takes that nobody asks, by process."""
        found = idle(self._stage, f"idle-{repeat}", 2.5 * self._seconds)
        for name, values in found.items():
            yield self._sample("idle", cases()[0], name, repeat, values)

    def _crowd(self, repeat: int) -> Iterator[Sample]:
        """Many streams at the same time; once, because it takes long."""
        if not repeat:
            row = []
            for name, values in gathered(self._stage, CROWD, 4 * self._seconds):
                row.append(self._sample("crowd", paced(EVENTS), name, repeat, values))
            yield from compared(row)

    def _soak(self, repeat: int) -> Iterator[Sample]:
        """Long, so only when asked for, and once."""
        if not repeat:
            yield from soak(self._stage, self._stage.options.minutes)

    @staticmethod
    def _sample(
        measure: str,
        case: Case,
        target: str,
        repeat: int,
        values: dict[str, float],
        rate: int = 0,
        reached: bool = True,
    ) -> Sample:
        return Sample(
            measure=measure,
            case=case.name,
            target=target,
            repeat=repeat,
            values=values,
            rate=rate,
            reached=reached,
        )


def compared(row: list[Sample]) -> list[Sample]:
    """Samples of one row with what they add over direct and their ratio to nginx, same repeat."""
    by_name = {sample.target: sample for sample in row if sample.reached}
    return [_compared(sample, by_name) for sample in row]


ADDED = (
    *("p50_us", "p90_us", "p99_us", "p999_us", "first_p50_us", "first_p99_us"),
    *("chunk_p50_us", "chunk_p99_us"),
)


def _compared(sample: Sample, row: dict[str, Sample]) -> Sample:
    extra = {}
    direct = row.get("direct")
    if direct is not None and sample is not direct and sample.reached:
        for name in ADDED:
            if name in sample.values:
                extra[f"added_{name}"] = sample.values[name] - direct.values[name]
    for peer, mark in (("nginx", "x"), ("envoy", "x_envoy")):
        if peer not in row or not sample.reached or sample.target in ("direct", peer):
            continue
        for name in ("cpu_us", "event_us"):
            if (base := row[peer].values.get(name, 0)) > 0 and name in sample.values:
                extra[f"{mark}_{name.removesuffix('_us')}"] = sample.values[name] / base
    return msgspec.structs.replace(sample, values={**sample.values, **extra})
