"""What is measured, in which order: repeats are interleaved, A B C A B C, never A A B B."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from benchmarks.cases import EVENTS, Case, cases, paced
from benchmarks.stage import Sample, Stage

FEW = 2  # events of the short stream that the long one is compared with
FIRST_BYTE_RATE = 200  # streams/s when the first byte is timed
FULL_RATE = 5000
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
        if wanted != ("governance",):
            for target in self._stage.targets():
                self._stage.generated(target, cases()[0], 0, min(0.5, self._seconds))
        if "open" in wanted or "governance" in wanted:
            yield self._generator()
        for repeat in range(self._stage.options.repeats):
            for name in wanted:
                self._say(f"repeat {repeat + 1}: {name}")
                yield from getattr(self, f"_{name}")(repeat)

    def _generator(self) -> Sample:
        """How fast the generator and the mock are by themselves on the core they share."""
        case, target = cases()[0], self._stage.mock.target
        values, _ = self._stage.generated(target, case, 0, self._seconds)
        return Sample(
            measure="generator", case=case.name, target=target.name, repeat=0, values=values
        )

    def _closed(self, repeat: int) -> Iterator[Sample]:
        for case in cases():
            row = []
            for target in self._stage.targets():
                values = self._stage.closed(target, case, self._seconds)
                row.append(self._sample("closed", case, target.name, repeat, values))
            yield from compared(row)

    def _open(self, repeat: int) -> Iterator[Sample]:
        chosen = [case for case in cases() if not self._stage.options.quick or "1k" in case.name]
        for case in chosen:
            for rate in self._stage.options.rates:
                yield from compared(list(self._row("open", case, rate, repeat)))

    def _row(self, measure: str, case: Case, rate: int, repeat: int) -> Iterator[Sample]:
        """The same timetable for every target that kept it so far."""
        for target in self._stage.targets():
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
        for target in self._stage.proxies():
            long, _ = self._stage.generated(target, paced(EVENTS), 0, self._seconds)
            short, _ = self._stage.generated(target, paced(FEW), 0, self._seconds)
            per_event = (long["cpu_us"] - short["cpu_us"]) / (EVENTS - FEW)
            values = {**long, "short_cpu_us": short["cpu_us"], "event_us": per_event}
            row.append(self._sample("stream", paced(EVENTS), target.name, repeat, values))
        yield from compared(row)
        yield from compared(list(self._row("first", paced(EVENTS), FIRST_BYTE_RATE, repeat)))

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


def _compared(sample: Sample, row: dict[str, Sample]) -> Sample:
    extra = {}
    direct, peer = row.get("direct"), row.get("nginx")
    if direct is not None and sample is not direct and sample.reached and sample.rate:
        for name in ("p50_us", "p90_us", "p99_us", "p999_us", "first_p50_us", "first_p99_us"):
            if name in sample.values:
                extra[f"added_{name}"] = sample.values[name] - direct.values[name]
    if peer is not None and sample.target == "bifrost" and sample.reached:
        for name in ("cpu_us", "event_us"):
            if peer.values.get(name, 0) > 0:
                extra[f"x_{name.removesuffix('_us')}"] = sample.values[name] / peer.values[name]
    return msgspec.structs.replace(sample, values={**sample.values, **extra})
