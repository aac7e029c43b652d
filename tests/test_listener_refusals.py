"""Both listeners: what is no proper HTTP/1.1 is refused, understood one way only, never a 5xx."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import suppress

import pytest

from tests.running import KEY, RunningGateway, RunningMock, configuration, message
from tests.sockets import Wire, chunked, cold, hot, request

BODY = json.dumps(message()).encode()
POST = "POST /v1/messages HTTP/1.1"
LIMIT = 65_536


@pytest.fixture(scope="module", params=["native", "asgi"])
def url(
    mock: RunningMock,
    tmp_path_factory: pytest.TempPathFactory,
    request: pytest.FixtureRequest,
) -> Iterator[str]:
    """The address of a gateway with either listener."""
    config = configuration(mock.url) | {"server": {"max_body_bytes": LIMIT}}
    folder = tmp_path_factory.mktemp("gateway")
    running = RunningGateway(folder, config, "--listener", request.param)
    yield running.url
    assert "Traceback" not in running.log.read_text()
    running.stop()


def sized(value: str) -> str:
    return f"content-length: {value}"


BAD = {
    "no version": b"GET /v1/models\r\n\r\n",
    "another version": request("POST /v1/messages HTTP/2.0", body=BODY),
    "no path": b"POST HTTP/1.1\r\n\r\n",
    "garbage": b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03 and more of a TLS greeting\r\n\r\n",
    "HTTP/2 preface": b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
    "length no number": request(POST, sized("ten"), body=BODY),
    "length negative": request(POST, sized("-1"), body=BODY),
    "length with sign": request(POST, sized(f"+{len(BODY)}"), body=BODY),
    "length in hex": request(POST, sized("0x10"), body=BODY),
    "length too long": request(POST, sized("1" * 30), body=BODY),
    "two lengths": request(POST, sized(str(len(BODY))), sized("5"), body=BODY),
    "the same length twice": request(POST, *[sized(str(len(BODY)))] * 2, body=BODY),
    "a list of lengths": request(POST, sized(f"{len(BODY)}, {len(BODY)}"), body=BODY),
    "length and chunks": request(
        POST, sized("5"), "transfer-encoding: chunked", body=chunked(BODY)
    ),
    "chunks and length": request(
        POST, "transfer-encoding: chunked", sized("5"), body=chunked(BODY)
    ),
    "chunks not last": request(POST, "transfer-encoding: chunked, gzip", body=chunked(BODY)),
    "unknown coding": request(POST, "transfer-encoding: xchunked", body=chunked(BODY)),
    "chunk size no number": request(
        POST, "transfer-encoding: chunked", body=b"zz\r\n\r\n0\r\n\r\n"
    ),
    "chunk size too long": request(
        POST, "transfer-encoding: chunked", body=b"f" * 17 + b"\r\n\r\n"
    ),
    "chunk longer than said": request(
        POST, "transfer-encoding: chunked", body=b"3\r\nabcd\r\n0\r\n\r\n"
    ),
    "folded header": request(POST, "x-a: b\r\n  c", body=BODY),
    "NUL in a header": request(POST, "x-a: b\0c", body=BODY),
    "NUL in the path": request("POST /v1/mess\0ages HTTP/1.1", body=BODY),
    "space before the colon": request(POST, "x-a : b", body=BODY),
    "space in a name": request(POST, "x a: b", body=BODY),
    "header without colon": request(POST, "nothing", body=BODY),
    "empty name": request(POST, ": b", body=BODY),
    "bare CR": request(POST, "x-a: b\rx-c: d", body=BODY),
    "bare LF": request(POST, "x-a: b", body=BODY).replace(b"\r\n", b"\n"),
    "bare LF at the end": b"POST /v1/messages HTTP/1.1\r\nhost: x\n\n",
    "space in the path": request("POST /v1/mess ages HTTP/1.1", body=BODY),
    "high bytes in the path": request("POST /v1/m\xe9ssages HTTP/1.1", body=BODY),
}


@pytest.mark.parametrize("case", BAD)
def test_what_is_not_http_is_refused_and_the_connection_ends(
    url: str, mock: RunningMock, case: str
) -> None:
    before = mock.account()["total"]["requests"]
    with Wire(url) as wire:
        answer = wire.send(BAD[case] + hot("smuggled")).answer()
        assert answer.status == 400, answer
        assert answer.headers["connection"] == "close"
        assert answer.body.startswith(b"The request is not valid HTTP/1.1: ")
        assert wire.closed()
    assert mock.account()["total"]["requests"] == before


@pytest.mark.parametrize("case", ["two lengths", "length and chunks", "folded header", "bare LF"])
def test_a_bad_request_waits_for_the_answers_before_it(url: str, case: str) -> None:
    with Wire(url) as wire:
        slow = hot("slow", "x-mock-chunks: 5", "x-mock-chunk-interval-ms: 40", stream=True)
        wire.send(slow + cold("cold") + hot("hot") + BAD[case])
        first = wire.answer()
        assert (first.status, first.id) == (200, "slow")
        assert first.body.rstrip().endswith(b'data: {"type":"message_stop"}')
        assert [(one.status, one.id) for one in (wire.answer(), wire.answer())] == [
            (200, "cold"), (200, "hot")
        ]  # fmt: skip
        assert wire.answer().status == 400
        assert wire.closed()


def test_a_body_that_turns_out_bad_is_refused(url: str) -> None:
    start = request(POST, "transfer-encoding: chunked", body=b"5\r\n{    \r\n")
    for before in ([], [cold("before")]):
        with Wire(url) as wire:
            wire.send(*before, start, b"zz\r\n")
            assert [wire.answer().id for _ in before] == ["before" for _ in before]
            assert wire.answer().status == 400
            assert wire.closed()


@pytest.mark.parametrize("start", [POST, "GET /v1/models HTTP/1.1"])
def test_a_head_beyond_the_bounds(url: str, start: str) -> None:
    for lines in (
        [f"x-{n}: {n}" for n in range(300)],
        ["x-a: " + "a" * 70_000],
        [f"x-{n}: " + "a" * 1000 for n in range(70)],
    ):
        with Wire(url) as wire:
            answer = wire.send(request(start, *lines, body=BODY)).answer()
            assert answer.status == 431 and b"256 headers and 65536 bytes" in answer.body
            assert wire.closed()


@pytest.mark.parametrize("start", [b"POST /", b"POST /v1/messages HTTP/1.1\r\nx-a: "])
def test_a_head_without_end_is_not_read_for_ever(url: str, start: bytes) -> None:
    with Wire(url) as wire:
        wire.send(start)
        with suppress(OSError):
            for _ in range(100):
                wire.send(b"a" * 65_536)
        assert wire.answer().status == 431
        assert wire.closed()


def test_a_head_within_the_bounds(url: str) -> None:
    lines = [f"x-{n}: {'a' * 200}" for n in range(240)]
    with Wire(url) as wire:
        for raw in (hot("large", *lines), cold("large", *lines)):
            assert wire.send(raw).answer().status == 200


def test_a_refusal_can_be_read_by_a_client_that_still_sends(url: str) -> None:
    """Of 8 MB that are too much; a reset would take the answer from the client."""
    size = 8 << 20
    for headers in ((sized(str(size)),), ("transfer-encoding: chunked",)):
        for _ in range(5):
            with Wire(url) as wire:
                wire.send(request(POST, *headers))
                body = b"x" * 65_536
                piece = body if "chunked" not in headers[0] else b"10000\r\n%b\r\n" % body
                for _ in range(size // len(body)):
                    wire.send(piece)
                answer = wire.answer()
                assert answer.status == 413 and answer.headers["connection"] == "close"
                assert answer.headers["x-bf-error"] == "request_too_large"
                assert wire.closed()


def test_chunks_with_extensions_and_trailers(url: str) -> None:
    pieces = [BODY[:10], BODY[10:11], BODY[11:]]
    with Wire(url) as wire:
        body = chunked(*pieces, extension=b";a=b;c", trailers=b"x-checksum: 1\r\nx-b: 2\r\n")
        raw = request(POST, "x-request-id: it", "transfer-encoding: chunked", body=body)
        for _ in range(2):
            answer = wire.send(raw).answer()
            assert (answer.status, answer.id) == (200, "it")
        answer = wire.send(*(raw[n : n + 1] for n in range(len(raw)))).answer()
        assert (answer.status, answer.id) == (200, "it")


def test_a_trailer_is_no_header(url: str) -> None:
    body = chunked(BODY, trailers=f"authorization: Bearer {KEY}\r\n".encode())
    with Wire(url) as wire:
        wire.send(request(POST, "transfer-encoding: chunked", body=body, key=None))
        assert wire.answer().status == 401
        wire.send(cold("next"))
        assert wire.answer().id == "next"


def test_trailers_without_end_are_not_read_for_ever(url: str) -> None:
    body = chunked(BODY)[:-2] + b"x-a: "
    with Wire(url) as wire:
        wire.send(request(POST, "transfer-encoding: chunked", body=body))
        with suppress(OSError):
            for _ in range(100):
                wire.send(b"a" * 65_536)
        assert wire.answer().status == 431
        assert wire.closed()


def test_a_client_may_ask_before_it_sends_its_body(url: str) -> None:
    expecting = (sized(str(len(BODY))), "expect: 100-continue", "x-request-id: asks")
    with Wire(url) as wire:
        for _ in range(2):
            assert wire.send(request(POST, *expecting)).answer().status == 100
            answer = wire.send(BODY).answer()
            assert (answer.status, answer.id) == (200, "asks")
    large = request(POST, sized("99999999"), "expect: 100-continue")
    with Wire(url) as wire:
        assert wire.send(large).answer().status == 413


def test_an_upgrade_is_declined_and_the_connection_goes_on(url: str) -> None:
    upgrade = ("connection: Upgrade, HTTP2-Settings", "upgrade: h2c", "http2-settings: AAMAAA")
    websocket = request("GET /v1/models HTTP/1.1", "x-request-id: ws", "connection: upgrade",
                        "upgrade: websocket", "sec-websocket-version: 13",
                        "sec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==")  # fmt: skip
    with Wire(url) as wire:
        wire.send(hot("h2c", *upgrade))
        assert (first := wire.answer()).status == 200 and first.id == "h2c"
        for n, raw in enumerate((cold("0"), hot("1"), cold("2"))):
            assert wire.send(raw).answer().id == str(n)
        wire.send(websocket + cold("behind") + hot("last"))
        assert [wire.answer().id for _ in range(3)] == ["ws", "behind", "last"]


def test_empty_lines_between_requests_are_skipped(url: str) -> None:
    with Wire(url) as wire:
        wire.send(b"\r\n" + hot("0") + b"\r\n\r\n" + hot("1") + b"\r\n" + cold("2") + b"\r\n")
        assert [wire.answer().id for _ in range(3)] == ["0", "1", "2"]
        assert wire.send(hot("3")).answer().id == "3"
