"""The admin API of a running gateway, as an administrator's program calls it."""

from __future__ import annotations

import re
from typing import Any

import httpx

from tests.running import RunningGateway


class Admin:
    """A client with the admin token that the gateway printed at its first start."""

    def __init__(self, gateway: RunningGateway) -> None:
        found = re.search(r"bf-admin-\S+", gateway.more())
        assert found is not None, gateway.output
        self.token = found[0]
        self.url = gateway.url
        self.data_dir = gateway.data_dir
        self.client = httpx.Client(
            base_url=f"{gateway.url}/api", headers={"authorization": f"Bearer {self.token}"}
        )

    def __enter__(self) -> Admin:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.close()

    def __call__(self, method: str, path: str, body: Any = None, **headers: str) -> httpx.Response:
        """A request; ``if_match="x"`` is sent as ``if-match: x``."""
        sent = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.client.request(method, path, json=body, headers=sent)

    def get(self, path: str) -> Any:
        """The data at a path."""
        return self.data(self("GET", path), 200)

    def post(self, path: str, body: Any = None, status: int = 201) -> Any:
        """What a POST answers."""
        return self.data(self("POST", path, body), status)

    @staticmethod
    def data(answer: httpx.Response, status: int) -> Any:
        """The answer's JSON, if its status is this one."""
        assert answer.status_code == status, answer.text
        assert answer.headers["cache-control"] == "no-store" and answer.headers["x-request-id"]
        return answer.json()


def problem(answer: httpx.Response, status: int, code: str | None = None) -> dict[str, str]:
    """The places of a problem with what is wrong there, after the document's form was checked."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    assert answer.headers["cache-control"] == "no-store"
    found = answer.json()
    assert set(found) - {"errors"} == {"type", "title", "status", "detail", "code", "request_id"}
    assert found["status"] == status and found["request_id"] == answer.headers["x-request-id"]
    assert code is None or found["code"] == code
    return {one["path"]: one["problem"] for one in found.get("errors", [])}
