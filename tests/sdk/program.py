"""The program of scenarios as a process, under the installed SDK or under another version of it."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

from tests.running import KEY, environment
from tests.sdk import scenarios


class Sdk:
    """The program with the scenarios, running under one version of the SDK."""

    def __init__(self, path: Path | None, home: Path) -> None:
        variables = {**environment(), "HOME": str(home), "NO_PROXY": "*"}
        variables.pop("PYTHONPATH", None)
        if path is not None:
            variables["PYTHONPATH"] = str(path)
        self._errors = (home / "errors.txt").open("w+")
        self._process = subprocess.Popen(
            [sys.executable, "-W", "error", scenarios.__file__],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._errors, text=True,
            env=variables, cwd=home,
        )  # fmt: skip

    def play(self, scenario: str, url: str, request: dict[str, Any], **client: str) -> Any:
        """The answer of a scenario, ``{"value": ...}`` or ``{"error": ...}``."""
        client = client or {"auth_token": KEY}
        line = {"scenario": scenario, "client": {"base_url": url, **client}, "request": request}
        assert self._process.stdin is not None and self._process.stdout is not None
        with contextlib.suppress(BrokenPipeError):
            self._process.stdin.write(json.dumps(line) + "\n")
            self._process.stdin.flush()
        answer = self._process.stdout.readline()
        if not answer:
            self._errors.seek(0)
            raise AssertionError(f"the SDK's program ended:\n{self._errors.read()}")
        return json.loads(answer)

    def value(self, scenario: str, url: str, request: dict[str, Any], **client: str) -> Any:
        """What a scenario that must not raise gives."""
        answer = self.play(scenario, url, request, **client)
        assert "value" in answer, answer
        return answer["value"]

    def error(self, scenario: str, url: str, request: dict[str, Any], **client: str) -> Any:
        """What a scenario that must raise raises."""
        answer = self.play(scenario, url, request, **client)
        assert "error" in answer, answer
        return answer["error"]

    def close(self) -> None:
        """Ends the program; it must have had nothing to complain about."""
        self._process.communicate(timeout=20)
        self._errors.seek(0)
        told = self._errors.read()
        self._errors.close()
        assert (self._process.returncode, told) == (0, "")
