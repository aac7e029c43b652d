"""Taking a key back: new requests are refused in every worker, streams under way are cut."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost.governance.directory import Directory
from tests.running import RunningGateway, RunningMock, bearer, configuration, message
from tests.test_tight import books

REFUSED_S, CUT_S = 0.05, 0.25


@pytest.fixture
def gateway(mock: RunningMock, tmp_path: Path) -> Any:
    running = RunningGateway(tmp_path / "gateway", configuration(mock.url), "--workers", "2")
    yield running
    running.stop()


class Stream(threading.Thread):
    """A stream of 30 s, read until it ends; notes when and how."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.begun = threading.Event()
        self.ended = 0.0
        self.text = b""

    def run(self) -> None:
        headers = bearer() | {"x-mock-chunks": "300", "x-mock-chunk-interval-ms": "100"}
        with httpx.stream(
            "POST", f"{self.url}/v1/messages", json=message(stream=True), headers=headers,
            timeout=60,
        ) as answer:  # fmt: skip
            for piece in answer.iter_bytes():
                self.text += piece
                if b"content_block_delta" in self.text:
                    self.begun.set()
        self.ended = time.monotonic()

    def error(self) -> dict[str, Any]:
        """The event that ended it."""
        event = self.text.rpartition(b"event: error\ndata: ")[2].strip()
        found: dict[str, Any] = json.loads(event)
        return found["error"]


def _statuses(url: str) -> set[int]:
    """What fresh connections get, so that every worker answers some."""
    return {
        httpx.post(f"{url}/v1/messages", json=message(), headers=bearer()).status_code
        for _ in range(12)
    }


ACTS: dict[str, tuple[Callable[[Directory], object], str]] = {
    "key revoked": (lambda d: d.revoke("alice-dev"), "authentication_error"),
    "key disabled": (lambda d: d.update("virtual_key", "alice-dev", is_active=False), "permission"),
    "user disabled": (lambda d: d.update("user", "alice", is_active=False), "permission_error"),
    "team disabled": (lambda d: d.update("team", "core", is_active=False), "permission_error"),
    "customer off": (lambda d: d.update("customer", "acme", is_active=False), "permission_error"),
    "key deleted": (lambda d: d.delete("virtual_key", "alice-dev"), "authentication_error"),
    "key rotated": (lambda d: d.rotate("alice-dev"), "authentication_error"),
}


@pytest.mark.parametrize("act", ACTS)
def test_streams_are_cut_and_new_requests_refused(gateway: RunningGateway, act: str) -> None:
    streams = [Stream(gateway.url) for _ in range(6)]
    for stream in streams:
        stream.start()
        assert stream.begun.wait(20)
    time.sleep(0.1)  # watched by now
    before = books(gateway)
    assert before[1] > 0
    budget_holder = gateway.stores()[0].get("virtual_key", "alice-dev")
    do, kind = ACTS[act]
    do(gateway.stores()[0])
    done = time.monotonic()
    assert _statuses(gateway.url) <= {401, 403}
    for stream in streams:
        stream.join(10)
        assert stream.ended - done < CUT_S + 1.0  # the bound itself is measured in benchmarks/
        assert stream.error()["type"].startswith(kind)
        assert "platform team" in stream.error()["message"]
    assert budget_holder.budgets
    _settled_for_what_flowed(gateway, budget_holder.budgets[0], len(streams))


def _settled_for_what_flowed(gateway: RunningGateway, budget: Any, count: int) -> None:
    from bifrost.governance.entities import id_number
    from bifrost.identify import budget_window

    account = (id_number(budget.id), budget_window(budget, time.time_ns())[0])
    deadline = time.monotonic() + 5
    while time.monotonic() < deadline:
        settled, reserved, requests, *_ = gateway.stores()[1].counters([account])[0]
        if reserved == 0:
            break
        time.sleep(0.01)
    assert (reserved, requests) == (0, count)
    assert settled > 0


def test_a_request_that_waits_for_its_answer_is_refused(gateway: RunningGateway) -> None:
    answers: list[httpx.Response] = []
    headers = bearer() | {"x-mock-latency-ms": "20000"}

    def ask() -> None:
        answers.append(
            httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=headers, timeout=30)
        )

    asking = threading.Thread(target=ask, daemon=True)
    asking.start()
    time.sleep(0.5)
    gateway.stores()[0].update("user", "alice", is_active=False)
    done = time.monotonic()
    asking.join(10)
    assert time.monotonic() - done < 5
    assert answers[0].status_code == 403
    assert answers[0].headers["x-bf-error"] == "virtual_key_blocked"
    assert books(gateway)[1] == 0


def test_other_keys_go_on(gateway: RunningGateway) -> None:
    stream = Stream(gateway.url)
    stream.start()
    assert stream.begun.wait(20)
    directory, _ = gateway.stores()
    directory.create_key("other", team="core")
    directory.revoke("other")
    time.sleep(0.6)
    assert stream.is_alive() and not stream.ended
    directory.revoke("alice-dev")
    stream.join(10)
    assert stream.ended
