"""How fast an audit log is verified: entries a second, on one process and on two.

    python -m benchmarks.verify [--entries 2000000] [--data-dir DIR]

The log holds the events of requests as the view's measurement has them, written and signed as the
steward does; each verification is a process of its own, as `bifrost audit verify` is, timed whole.
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import tempfile
import time
from itertools import islice
from pathlib import Path

from benchmarks.view import requests
from bifrost._fast import digest
from bifrost.audit import events
from bifrost.audit.log import Log
from bifrost.audit.notary import Notary

BATCH = 2_048
REPEATS = 3
VERIFY = """
import resource, sys, time
from pathlib import Path
from bifrost.audit.verify import Verification
if __name__ == "__main__":
    began = time.perf_counter()
    verdict = Verification(Path(sys.argv[1])).whole(processes=int(sys.argv[2]))
    assert verdict.intact, verdict.findings
    took = time.perf_counter() - began
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(verdict.checked, took, sum(one.ru_utime + one.ru_stime for one in used))
"""


def written(data_dir: Path, count: int) -> tuple[float, int]:
    """Writes and signs a log; (seconds, bytes of its entries)."""
    log, notary = Log(data_dir), Notary(data_dir)
    raws = (events.sequenced(events.encode(event), n) for n, event in enumerate(requests(count), 1))
    began, size = time.perf_counter(), 0
    while batch := list(islice(raws, BATCH)):
        notary.feed(log.append(batch), batch)
        notary.work(log.next, log.append)
        size += sum(map(len, batch))
    notary.finish(log.next, log.append)
    log.close()
    return time.perf_counter() - began, size


def verified(folder: Path, processes: int) -> tuple[int, float, float]:
    """(entries, seconds, processor seconds) of one verification."""
    command = [sys.executable, "-c", VERIFY, str(folder), str(processes)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, timeout=600)
    entries, took, used = done.stdout.split()
    return int(entries), float(took), float(used)


def measure(data_dir: Path, count: int) -> None:
    """Writes the log and prints what verifying it costs."""
    took, size = written(data_dir, count)
    print(f"{count:,} entries of {size / count:.0f} bytes, written in {took:.0f} s")
    print("compiled hashes" if digest.BOUND else "hashes by the interpreter")
    for processes in (1, 2):
        runs = [verified(data_dir / "audit", processes) for _ in range(REPEATS)]
        rates = sorted(entries / seconds for entries, seconds, _ in runs)
        cpu = statistics.median(used / entries * 1e6 for entries, _, used in runs)
        print(
            f"{processes} process{'es' if processes > 1 else ''}: {rates[1]:,.0f} entries/s "
            f"({rates[0]:,.0f}-{rates[-1]:,.0f}), {cpu:.2f} us of CPU each"
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--entries", type=int, default=2_000_000)
    parser.add_argument("--data-dir", type=Path)
    options = parser.parse_args()
    if options.data_dir is not None:
        measure(options.data_dir, options.entries)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(Path(folder), options.entries)


if __name__ == "__main__":
    main()
