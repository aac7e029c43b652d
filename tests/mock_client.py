"""A plain client of the mock provider, for its tests."""

from __future__ import annotations

import http.client
import json
import socket
import time
from typing import Any

import anthropic

from bifrost.mock import MockServer

ASK: dict[str, Any] = {
    "model": "claude-haiku-5-5",
    "max_tokens": 100,
    "messages": [{"role": "user", "content": "hello"}],
}
CHAT: dict[str, Any] = {"model": "gpt-5.1", "messages": [{"role": "user", "content": "hello"}]}
USAGE = {
    "input_tokens": 412,
    "cache_creation_input_tokens": 1024,
    "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 24},
    "cache_read_input_tokens": 12288,
    "output_tokens": 287,
    "thinking_tokens": 40,
}
STEER = {"x-mock-usage": json.dumps(USAGE)}
KEY = {"authorization": "Bearer any"}
GEMINI = "/v1beta/models/gemini-3-pro:"


def call(
    server: MockServer,
    path: str,
    body: object = None,
    headers: dict[str, str] | None = None,
    method: str | None = None,
) -> tuple[int, dict[str, str], bytes]:
    data = body if isinstance(body, bytes) or body is None else json.dumps(body).encode()
    connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
    try:
        how = method or ("GET" if data is None else "POST")
        connection.request(how, path, data, {**KEY, **(headers or {})})
        answer = connection.getresponse()
        return answer.status, dict(answer.getheaders()), answer.read()
    finally:
        connection.close()


def ask(server: MockServer, path: str, body: object, **headers: str) -> Any:
    status, _, data = call(server, path, body, {k.replace("_", "-"): v for k, v in headers.items()})
    assert status == 200, data
    return json.loads(data)


def events(data: bytes) -> list[Any]:
    lines = [line[6:] for line in data.decode().splitlines() if line.startswith("data: ")]
    return [line if line == "[DONE]" else json.loads(line) for line in lines]


def sdk(server: MockServer) -> anthropic.Anthropic:
    return anthropic.Anthropic(api_key="k", base_url=f"{server.url}/anthropic", max_retries=0)


def account(server: MockServer) -> Any:
    return json.loads(call(server, "/__mock/account")[2])


def raw(server: MockServer, data: bytes, end: bytes | None = None) -> bytes:
    """Send bytes, read until ``end`` is there or the server closes."""
    with socket.create_connection(("127.0.0.1", server.port), timeout=10) as sock:
        sock.sendall(data)
        got = b""
        while end is None or not got.endswith(end):
            part = sock.recv(1 << 16)
            if not part:
                break
            got += part
        return got


def post(body: dict[str, Any], *lines: str, path: str = "/v1/messages") -> bytes:
    data = json.dumps(body).encode()
    head = [f"POST {path} HTTP/1.1", "host: mock", "x-api-key: k", f"content-length: {len(data)}"]
    return "\r\n".join([*head, *lines, "", ""]).encode() + data


def eventually(server: MockServer, key: str, value: int) -> Any:
    for _ in range(500):
        told = account(server)
        if told[key] == value:
            return told
        time.sleep(0.01)
    raise AssertionError(f"{key} never became {value}: {told}")
