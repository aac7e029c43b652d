"""Instructions of one governed request, counted by valgrind over a fixed trace.

Time is at the mercy of the machine, a count is not: it says whether a change made the path longer.
``--check`` compares with ``instructions.json`` and fails beyond 3 %; ``--write`` replaces it.
"""

from __future__ import annotations

import argparse
import json
import platform
import re
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from benchmarks.processes import ROOT, BenchError

KEPT = ROOT / "benchmarks" / "instructions.json"
TOLERANCE = 0.03
CASES = ("governance", "json-1k", "json-50k", "sse-1k")
COUNT = 500
PATIENCE_S = 300.0
_TOTAL = re.compile(r"^(?:summary|totals): (\d+)", re.M)


def measured(case: str, direct: bool, folder: Path, count: int) -> int:
    """Instructions of ``count`` requests of a case, by the gateway or past it."""
    out = folder / "callgrind.out"
    command = [
        "valgrind", "--tool=callgrind", "--instr-atstart=no", f"--callgrind-out-file={out}", "-q",
        sys.executable, "-m", "benchmarks.traced", case, str(folder / "data"), str(count),
        *(["direct"] if direct else []),
    ]  # fmt: skip
    environment = {"PATH": "/usr/bin:/bin", "HOME": str(folder)}
    environment |= {"PYTHONHASHSEED": "0", "PYTHONPATH": str(ROOT)}
    with subprocess.Popen(
        command, cwd=folder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        stderr=(folder / "stderr").open("w"), env=environment,
    ) as process:  # fmt: skip
        try:
            assert process.stdin is not None and process.stdout is not None
            _await(process, "warm", folder)
            _tell(process.pid, "instrumentation on")
            process.stdin.write("\n")
            process.stdin.flush()
            _await(process, "done", folder)
            process.wait(60)
        finally:
            process.kill()
    found = _TOTAL.search(out.read_text())
    if found is None:
        raise BenchError(f"callgrind wrote no total into {out}")
    return int(found[1])


def _await(process: subprocess.Popen[str], word: str, folder: Path) -> None:
    assert process.stdout is not None
    line = process.stdout.readline().strip()
    if line != word:
        process.kill()
        raise BenchError(f"expected {word!r}, got {line!r}: {(folder / 'stderr').read_text()}")


def _tell(pid: int, order: str) -> None:
    """Gives callgrind an order; it listens as soon as the program runs."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        done = subprocess.run(
            ["vgdb", f"--pid={pid}", *order.split()], capture_output=True, text=True, check=False
        )
        if done.returncode == 0:
            return
        if time.monotonic() > deadline:
            raise BenchError(f"vgdb cannot reach the program: {done.stderr.strip()}")
        time.sleep(0.2)


def counted(cases: tuple[str, ...], count: int) -> dict[str, int]:
    """Instructions per request that the gateway adds to the same trace without it."""
    found = {}
    for case in cases:
        each = []
        for direct in (False, True):
            with tempfile.TemporaryDirectory(prefix="bifrost-count-") as folder:
                each.append(measured(case, direct, Path(folder), count))
        found[case] = round((each[0] - each[1]) / count)
        print(f"{case}: {found[case]:,} instructions a request", flush=True)
    return found


def machine() -> str:
    """What the counts depend on besides this program."""
    return f"{platform.machine()}, CPython {'.'.join(platform.python_version_tuple()[:2])}"


def compared(found: dict[str, int], kept: dict[str, int]) -> list[str]:
    """What became dearer than the tolerance allows."""
    return [
        f"{case}: {count:,} instructions, {100 * (count / kept[case] - 1):+.1f} % to {kept[case]:,}"
        for case, count in found.items()
        if case in kept and count > kept[case] * (1 + TOLERANCE)
    ]


def main() -> int:
    """The command; 1 if a path became longer."""
    parser = argparse.ArgumentParser("instructions", description=__doc__)
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--write", action="store_true")
    parser.add_argument("--count", type=int, default=COUNT)
    parser.add_argument("--case", choices=CASES, action="append")
    asked = parser.parse_args()
    if shutil.which("valgrind") is None or shutil.which("vgdb") is None:
        print("SKIPPED: instructions are not counted, valgrind is not installed.", file=sys.stderr)
        return 0
    kept = json.loads(KEPT.read_text()) if KEPT.exists() else {}
    here = machine()
    if asked.check and here not in kept:
        print(f"SKIPPED: no counts are kept for {here}.", file=sys.stderr)
        return 0
    found = counted(tuple(asked.case or CASES), asked.count)
    if asked.write:
        kept[here] = {**kept.get(here, {}), **found}
        KEPT.write_text(json.dumps(kept, indent=2) + "\n")
    longer = compared(found, kept.get(here, {})) if asked.check else []
    if longer:  # timers that fire meanwhile count too: the lower of two
        again = counted(tuple(asked.case or CASES), asked.count)
        longer = compared({case: min(found[case], again[case]) for case in found}, kept[here])
    for line in longer:
        print(f"LONGER: {line}", file=sys.stderr)
    return int(bool(longer))


if __name__ == "__main__":
    try:
        sys.exit(main())
    except BenchError as error:
        sys.exit(f"benchmarks: {error}")
