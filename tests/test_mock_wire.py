"""The mock provider's server: HTTP framing, order, recording, embedding, the process."""

from __future__ import annotations

import asyncio
import gzip
import hashlib
import http.client
import json
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost.errors import ConfigError
from bifrost.mock import MockOptions, MockServer, running, start
from tests.mock_client import ASK, KEY, ask, call, post, raw


@pytest.fixture(scope="module")
def plain() -> Iterator[MockServer]:
    with running(MockOptions()) as server:
        yield server


# the wire


def test_pipelined_requests_are_answered_in_order(plain: MockServer) -> None:
    names = [f"model-{i}" for i in range(500)]
    data = b"".join(post({**ASK, "model": name}) for name in names[:-1])
    data += post({**ASK, "model": names[-1]}, "connection: close")
    got = raw(plain, data)
    assert [part.split(b'"')[0].decode() for part in got.split(b'"model":"')[1:]] == names


def test_big_and_chunked_bodies(plain: MockServer) -> None:
    body = json.dumps({**ASK, "filler": "f" * (24 << 20)}).encode()
    usage = ask(plain, "/v1/messages", body)["usage"]
    assert usage["input_tokens"] == (len(body) + 3) // 4
    small = json.dumps(ASK).encode()
    chunked = b"".join(b"1\r\n%c\r\n" % byte for byte in small) + b"0\r\n\r\n"
    head = b"POST /v1/messages HTTP/1.1\r\nhost: m\r\nx-api-key: k\r\nconnection: close\r\n"
    data = raw(plain, head + b"transfer-encoding: chunked\r\n\r\n" + chunked)
    assert data.startswith(b"HTTP/1.1 200 OK")
    assert b'"input_tokens":%d,' % ((len(small) + 3) // 4) in data


def test_compressed_and_hostile_bodies(plain: MockServer) -> None:
    body = gzip.compress(json.dumps(ASK).encode())
    assert call(plain, "/v1/messages", body, {"content-encoding": "gzip"})[0] == 200
    assert call(plain, "/v1/messages", body, {"content-encoding": "br"})[0] == 400
    assert call(plain, "/v1/messages", b"[" * 100_000)[0] == 400
    assert call(plain, "/v1/messages", b'{"model":"\xff","max_tokens":1}')[0] == 400


def test_expect_100_continue(plain: MockServer) -> None:
    request = post(ASK, "expect: 100-continue", "connection: close")
    head, _, body = request.partition(b"\r\n\r\n")
    with socket.create_connection(("127.0.0.1", plain.port), timeout=10) as sock:
        sock.sendall(head + b"\r\n\r\n")
        assert sock.recv(1000) == b"HTTP/1.1 100 Continue\r\n\r\n"
        sock.sendall(body)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200 OK")


def test_http_1_0_and_nonsense(plain: MockServer) -> None:
    old = raw(plain, post({**ASK, "stream": True}).replace(b"HTTP/1.1", b"HTTP/1.0"))
    assert b"chunked" not in old and old.endswith(b'{"type":"message_stop"}\n\n')
    assert raw(plain, b"nonsense\r\n\r\n").startswith(b"HTTP/1.1 400")
    ws = b"GET /v1/responses HTTP/1.1\r\nhost: m\r\nconnection: upgrade\r\n"
    ws += b"upgrade: websocket\r\n\r\n"
    assert raw(plain, ws).startswith(b"HTTP/1.1 426")
    assert call(plain, "/nowhere", ASK)[0] == 404
    assert call(plain, "/anthropic", method="HEAD")[0] == 200
    assert call(plain, "/v1/messages", None)[0] == 405
    assert call(plain, "/v1/messages", ASK, {"x-mock-usage": '{"tokens":1}'})[0] == 400
    assert call(plain, "/v1/messages", ASK, {"x-mock-chunk": "1"})[0] == 400


def test_a_reader_that_stops_loses_nothing(plain: MockServer) -> None:
    steer = 'x-mock-usage: {"output_tokens":200000}'
    request = post({**ASK, "stream": True}, steer, "x-mock-latency-ms: 1")
    with socket.create_connection(("127.0.0.1", plain.port), timeout=10) as sock:
        sock.sendall(request * 20 + post(ASK, "connection: close"))
        time.sleep(0.05)
        got = b"".join(iter(lambda: sock.recv(1 << 20), b""))
    assert got.count(b"HTTP/1.1 200 OK") == 21 and got.count(b"message_stop\n") == 20


# recording, embedding, running


def test_recorded_requests() -> None:
    with running(MockOptions(record_bodies=True)) as server:
        body = json.dumps(ASK).encode()
        call(server, "/v1/messages?beta=true", body, {"X-Mixed-Case": "Kept"})
        call(server, "/v1/models")
        told = json.loads(call(server, "/__mock/requests?last=2")[2])
        first, second = told["requests"]
        assert (first["method"], first["path"]) == ("POST", "/v1/messages?beta=true")
        assert ["X-Mixed-Case", "Kept"] in first["headers"] and second["method"] == "GET"
        assert first["body_sha256"] == hashlib.sha256(body).hexdigest()
        assert first["body_bytes"] == len(body) and first["body"]


def test_start_and_close_on_a_plain_loop(tmp_path: Path) -> None:
    async def visit() -> bytes:
        server = await start(MockOptions(uds=str(tmp_path / "mock.sock")))
        reader, writer = await asyncio.open_unix_connection(str(tmp_path / "mock.sock"))
        writer.write(post(ASK, "connection: close"))
        data = await reader.read()
        writer.close()
        await writer.wait_closed()
        await server.close()
        return data

    assert asyncio.run(visit()).startswith(b"HTTP/1.1 200 OK")


def test_run_prints_where_it_listens_and_ends_on_a_signal() -> None:
    code = "from bifrost.mock import *; run(MockOptions(output_tokens=9))"
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        line = process.stdout.readline().decode()
        port = int(line.rsplit(":", 1)[1])
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("POST", "/v1/messages", json.dumps(ASK), KEY)
        told = json.loads(connection.getresponse().read())
        connection.close()
        process.send_signal(signal.SIGTERM)
        assert process.wait(10) == 0 and told["usage"]["output_tokens"] == 9


@pytest.mark.parametrize(
    "wrong", [{"chunks": 0}, {"fail": 200}, {"fail_rate": 0.0}, {"script": "x"}, {"latency_ms": -1}]
)
def test_options_out_of_range(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=next(iter(wrong))):
        MockOptions(**wrong)
