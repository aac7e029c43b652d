"""Both listeners: requests in any pieces and in a row, and the same answers from either."""

from __future__ import annotations

import json
import random
import re
import socket
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from tests.running import RunningGateway, RunningMock, configuration, message
from tests.sockets import Answer, Wire, chunked, cold, hot, request

LISTENERS = ["native", "asgi"]
Gateways = dict[str, RunningGateway]


@pytest.fixture(scope="module")
def gateways(mock: RunningMock, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateways]:
    """One gateway per listener."""
    config = configuration(mock.url) | {"server": {"max_body_bytes": 65_536}}
    folder = tmp_path_factory.mktemp("gateways")
    running = {name: RunningGateway(folder / name, config, "--listener", name)
               for name in LISTENERS}  # fmt: skip
    yield running
    for one in running.values():
        one.stop()


@pytest.fixture(params=LISTENERS)
def url(gateways: Gateways, request: pytest.FixtureRequest) -> str:
    """The address of a gateway with the listener of this test."""
    return gateways[request.param].url


# The kinds of requests that may stand in one row: bytes, and what must come back.
ROW = {
    "hot": lambda id: (hot(id), 200, b'"type":"message"'),
    "stream": lambda id: (hot(id, stream=True), 200, b"message_stop"),
    "failing": lambda id: (hot(id, "x-mock-fail: 429"), 429, b"rate_limit"),
    "cold": lambda id: (cold(id), 200, b'"object":"list"'),
    "unknown": lambda id: (request(f"GET /none HTTP/1.1\r\nx-request-id: {id}"), 404, b"/none"),
    "invalid": lambda id: (
        request("POST /v1/messages HTTP/1.1", f"x-request-id: {id}", body=b"{"),
        400, b"not valid",
    ),
    "nobody": lambda id: (
        request("POST /v1/messages HTTP/1.1", f"x-request-id: {id}", body=b"{}", key=None),
        401, b"virtual key",
    ),
    "chunked": lambda id: (
        request("POST /v1/messages HTTP/1.1", f"x-request-id: {id}", "transfer-encoding: chunked",
                body=chunked(json.dumps(message()).encode())),
        200, b'"type":"message"',
    ),
}  # fmt: skip


def in_a_row(url: str, kinds: list[str], cuts: list[int]) -> None:
    """Sends requests of these kinds in one go, cut at shares of 1000; checks every answer."""
    row = [ROW[kind](f"row-{n}") for n, kind in enumerate(kinds)]
    data = b"".join(raw for raw, _, _ in row)
    marks = sorted({len(data) * cut // 1000 for cut in cuts})
    pieces = [data[a:b] for a, b in zip([0, *marks], [*marks, len(data)], strict=True)]
    with Wire(url) as wire:
        wire.send(*pieces)
        for n, (_, status, part) in enumerate(row):
            answer = wire.answer()
            assert (answer.status, answer.id) == (status, f"row-{n}"), kinds
            assert part in answer.body
        assert wire.read == b""


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kinds=st.lists(st.sampled_from(sorted(ROW)), min_size=2, max_size=10),
    cuts=st.lists(st.integers(1, 999), max_size=6),
)
@pytest.mark.parametrize("name", LISTENERS)
def test_requests_in_a_row_are_answered_in_order(
    gateways: Gateways, name: str, kinds: list[str], cuts: list[int]
) -> None:
    in_a_row(gateways[name].url, kinds, cuts)


def test_what_comes_while_an_answer_goes_out_keeps_its_place(url: str) -> None:
    """Each request in two pieces, the second of which meets the answer to the one before."""
    chance = random.Random(4)
    data = b"".join(hot(f"n-{n}") for n in range(60))
    with Wire(url) as wire, ThreadPoolExecutor(1) as reader:
        answers = reader.submit(lambda: [wire.answer() for _ in range(60)])
        while data:
            size = chance.randint(1, 700)
            wire.send(data[:size])
            data = data[size:]
        found = answers.result(30)
    assert [(one.status, one.id) for one in found] == [(200, f"n-{n}") for n in range(60)]


def test_a_request_may_be_split_anywhere(url: str) -> None:
    whole = request("POST /v1/messages HTTP/1.1", "x-request-id: cut",
                    body=json.dumps(message()).encode())  # fmt: skip
    with Wire(url) as wire:
        for cut in range(1, len(whole)):
            answer = wire.send(whole[:cut], whole[cut:]).answer()
            assert (answer.status, answer.id) == (200, "cut"), cut


def test_a_request_may_come_byte_by_byte(url: str) -> None:
    for raw in (hot("bytes"), cold("bytes")):
        with Wire(url) as wire:
            answer = wire.send(*(raw[n : n + 1] for n in range(len(raw)))).answer()
            assert (answer.status, answer.id) == (200, "bytes")


def test_many_connections_at_once(url: str) -> None:
    wires = [Wire(url, 60) for _ in range(500)]
    try:
        for n, wire in enumerate(wires):
            wire.send(hot(f"many-{n}", stream=n % 2 == 0) + cold(f"then-{n}"))
        for n, wire in enumerate(wires):
            first, second = wire.answer(), wire.answer()
            assert (first.status, first.id) == (200, f"many-{n}")
            assert (second.status, second.id) == (200, f"then-{n}")
    finally:
        for wire in wires:
            wire.socket.close()


LONG = json.dumps(message(system="x" * 66_000)).encode()
SHORT = json.dumps(message()).encode()
STREAM = json.dumps(message(stream=True)).encode()
POST = "POST /v1/messages HTTP/1.1"
WHOLE = ("x-request-id: same", 'x-mock-usage: {"input_tokens":10,"output_tokens":5}')
SAME = {
    "message": request(POST, *WHOLE, body=SHORT),
    "prefix": request("POST /anthropic/v1/messages HTTP/1.1", *WHOLE, body=SHORT),
    "query": request("POST /v1/messages?beta=true HTTP/1.1", *WHOLE, body=SHORT),
    "fragment": request("POST /v1/messages?beta=true#top HTTP/1.1", *WHOLE, body=SHORT),
    "stream": request(POST, *WHOLE, body=STREAM),
    "chunks": request(POST, *WHOLE, "transfer-encoding: chunked", body=chunked(SHORT, SHORT[:0])),
    "absolute": request("POST http://gateway/v1/messages HTTP/1.1", *WHOLE, body=SHORT),
    "absolute, no path": request("GET http://gateway HTTP/1.1"),
    "percent": request("POST /v1/%6Dessages HTTP/1.1", *WHOLE, body=SHORT),
    "percent slash": request("POST /v1%2Fmessages HTTP/1.1", *WHOLE, body=SHORT),
    "percent broken": request("POST /v1/%zz HTTP/1.1", *WHOLE, body=SHORT),
    "two slashes": request("POST //v1/messages HTTP/1.1", *WHOLE, body=SHORT),
    "slash behind": request("POST /v1/messages/ HTTP/1.1", *WHOLE, body=SHORT),
    "dots": request("POST /x/../v1/messages HTTP/1.1", *WHOLE, body=SHORT),
    "upper case": request("POST /V1/MESSAGES HTTP/1.1", *WHOLE, body=SHORT),
    "options": request("OPTIONS /v1/messages HTTP/1.1", *WHOLE),
    "options of all": request("OPTIONS * HTTP/1.1", *WHOLE),
    "connect": request("CONNECT gateway:443 HTTP/1.1", *WHOLE),
    "get": request("GET /v1/messages HTTP/1.1", *WHOLE),
    "no such method": request("FETCH /v1/messages HTTP/1.1", *WHOLE),
    "provider's refusal": request(POST, *WHOLE, "x-mock-fail: 400", body=SHORT),
    "provider down": request(POST, *WHOLE, "x-mock-fail: 529", body=SHORT),
    "error event": request(POST, *WHOLE, "x-mock-error-event: 1", body=STREAM),
    "unpriced": request(POST, *WHOLE, body=json.dumps(message(model="nobody")).encode()),
    "not JSON": request(POST, *WHOLE, body=b"{"),
    "empty": request(POST, *WHOLE, body=b""),
    "no length": request(POST, *WHOLE),
    "too long": request(POST, *WHOLE, body=LONG),
    "too long in chunks": request(POST, *WHOLE, "transfer-encoding: chunked", body=chunked(LONG)),
    "no key": request(POST, *WHOLE, body=SHORT, key=None),
    "key in query": request("POST /v1/messages?key=1 HTTP/1.1", *WHOLE, body=SHORT),
    "close": request(POST, *WHOLE, "connection: close", body=SHORT),
    "keep-alive": request(POST, *WHOLE, "connection: keep-alive", body=SHORT),
    "upgrade": request(POST, *WHOLE, "connection: upgrade", "upgrade: h2c", body=SHORT),
    "websocket": request("GET /v1/messages HTTP/1.1", *WHOLE, "connection: upgrade",
                         "upgrade: websocket", "sec-websocket-version: 13",
                         "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ=="),
    "1.0": request("POST /v1/messages HTTP/1.0", *WHOLE, body=SHORT),
    "1.0 keep-alive": request("POST /v1/messages HTTP/1.0", *WHOLE, "connection: keep-alive",
                              body=SHORT),
    "2.0": request("POST /v1/messages HTTP/2.0", *WHOLE, body=SHORT),
    "high bytes": request(POST, *WHOLE, "user-agent: caf\xe9 \xff\x80", body=SHORT),
    "gzip that is none": request(POST, *WHOLE, "content-encoding: gzip", body=SHORT),
    "health": request("GET /health HTTP/1.1"),
    "head": request("HEAD /api/hello HTTP/1.1"),
}  # fmt: skip
OWN = {"date", "x-bf-budget-remaining-usd", "x-bf-budget-reset", "request-id"}  # always differ


def told(url: str, raw: bytes, *, bodiless: bool) -> tuple[Answer, bool]:
    """The answer without what must differ, and whether the connection takes another request."""
    with Wire(url) as wire:
        status, headers, body = wire.send(raw).answer(bodiless=bodiless)
        headers = {name: value for name, value in headers.items() if name not in OWN}
        body = re.sub(rb"req_011\w+", b"PROVIDER", body)
        if "x-request-id" in headers and headers["x-request-id"] != "same":
            body = body.replace(headers.pop("x-request-id").encode(), b"ID")
        if status == 200 and b"msg_" in body:
            message_id = body.split(b'"id":"')[1].split(b'"')[0]
            body = body.replace(message_id, b"MESSAGE")
        try:
            stays = wire.send(cold("next")).answer().id == "next"
        except (EOFError, OSError):
            stays = False
        return Answer(status, headers, body), stays


@pytest.mark.parametrize("case", SAME)
def test_both_listeners_answer_alike(gateways: Gateways, mock: RunningMock, case: str) -> None:
    found = []
    for name in LISTENERS:
        before = mock.account()["total"]["requests"]
        answer = told(gateways[name].url, SAME[case], bodiless=case == "head")
        seen = mock.account()["total"]["requests"] - before
        path = mock.requests(1)[-1]["path"] if seen else None
        found.append((answer, seen, path))
    assert found[0] == found[1]
    assert found[0][0][0].status < 500 or "down" in case


def statuses(url: str, raw: bytes) -> list[bytes]:
    """How everything in ``raw`` is answered, interim answers left out."""
    with Wire(url) as wire:
        with suppress(OSError):
            wire.send(raw).socket.shutdown(socket.SHUT_WR)
        said = b""
        with suppress(ConnectionResetError):
            while data := wire.socket.recv(65536):
                said += data
    return [status for status in re.findall(rb"HTTP/1\.1 (\d+) ", said) if status != b"100"]


@pytest.mark.parametrize("first", [hot("first"), b""])
def test_a_wrong_head_is_refused_though_nothing_follows(gateways: Gateways, first: bytes) -> None:
    wrong = hot("wrong").replace(b"\r\n\r\n", b"\n\r\n")
    answers = [statuses(gateways[name].url, first + wrong) for name in LISTENERS]
    assert answers[0] == answers[1] == ([b"200"] if first else []) + [b"400"]


@settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    kind=st.sampled_from(["hot", "cold", "chunked"]),
    wounds=st.lists(
        st.tuples(st.integers(0, 999), st.integers(0, 3), st.binary(max_size=3)),
        min_size=1, max_size=3,
    ),
)  # fmt: skip
def test_damaged_requests_are_understood_alike(
    gateways: Gateways, kind: str, wounds: list[tuple[int, int, bytes]]
) -> None:
    raw = ROW[kind]("damaged")[0] + hot("behind")
    for place, lost, new in wounds:
        at = len(raw) * place // 1000
        raw = raw[:at] + new + raw[at + lost :]
    native, asgi = (statuses(gateways[name].url, raw) for name in LISTENERS)
    assert native == asgi
    assert all(status < b"500" for status in native)
