"""For people who bring their own Locust: streamed and whole Messages requests through a gateway.

``BIFROST_KEY=sk-bf-... locust -f benchmarks/locustfile.py --host http://127.0.0.1:8080``.
``BIFROST_BODY`` may name a file with the request body. Locust itself needs far more CPU per
request than the gateway: use it for behaviour under many users, not for CPU figures.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from locust import HttpUser, between, task

SMALL: dict[str, Any] = {
    "model": "claude-sonnet-4-5",
    "max_tokens": 1000,
    "messages": [{"role": "user", "content": "Hello"}],
}
ROUTE = "/anthropic/v1/messages"


def body(stream: bool) -> bytes:
    """The request body, from ``BIFROST_BODY`` if it is set."""
    path = os.environ.get("BIFROST_BODY")
    asked: dict[str, Any] = json.loads(Path(path).read_bytes()) if path else SMALL
    return json.dumps({**asked, "stream": stream}).encode()


class Agent(HttpUser):
    """One coding agent: three streamed requests for each whole one."""

    wait_time = between(0.1, 0.5)

    def on_start(self) -> None:
        """Called by Locust for each user."""
        self.client.headers.update(
            {
                "authorization": f"Bearer {os.environ['BIFROST_KEY']}",
                "anthropic-version": "2023-06-01",
                "content-type": "application/json",
            }
        )
        self._whole, self._streamed = body(False), body(True)

    @task(1)
    def whole(self) -> None:
        """A JSON answer."""
        self.client.post(ROUTE, data=self._whole, name="messages (JSON)")

    @task(3)
    def streamed(self) -> None:
        """An SSE answer, read to its last event."""
        with self.client.post(
            ROUTE, data=self._streamed, name="messages (SSE)", stream=True, catch_response=True
        ) as answer:
            last = b""
            for line in answer.iter_lines():
                last = line or last
            if answer.status_code == 200 and b"message_stop" not in last:
                answer.failure("the stream did not end with message_stop")
