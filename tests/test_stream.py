"""Streams: every byte as it comes, billed for what flowed, closed when either side leaves."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import httpx
import pytest

from bifrost.metering.catalogue import Catalogue
from tests.running import RunningGateway, RunningMock, bearer, configuration, message

MODEL = "claude-sonnet-4-5"
USAGE = {"input_tokens": 1000, "output_tokens": 400}
PRICE = Catalogue.load().price("anthropic", MODEL)


class Script:
    """A provider that plays bytes: each connection is handed to ``play`` after its request."""

    def __init__(self, play: Callable[[socket.socket, bytes], None]) -> None:
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        self.play = play
        self.bodies: list[bytes] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self.listener.accept()
            except OSError:
                return
            threading.Thread(target=self._serve, args=(connection,), daemon=True).start()

    def _serve(self, connection: socket.socket) -> None:
        with connection:
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(65536)
            self.bodies.append(body)
            self.play(connection, body)

    def close(self) -> None:
        self.listener.close()


HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\nconnection: close\r\n\r\n"
START = (
    b'event: message_start\ndata: {"type":"message_start","message":{"id":"msg_1","type":"message",'
    b'"role":"assistant","model":"claude-sonnet-4-5","content":[],"usage":{"input_tokens":1000,'
    b'"cache_read_input_tokens":50,"output_tokens":1}}}\n\n'
)
DELTA = (
    b'event: content_block_delta\ndata: {"type":"content_block_delta","index":0,'
    b'"delta":{"type":"text_delta","text":"%b"}}\n\n'
)
END = (
    b'event: message_delta\ndata: {"type":"message_delta","delta":{"stop_reason":"end_turn"},'
    b'"usage":{"output_tokens":400}}\n\nevent: message_stop\ndata: {"type":"message_stop"}\n\n'
)


@pytest.fixture
def scripted(tmp_path: Path) -> Iterator[Callable[..., tuple[RunningGateway, Script]]]:
    """A gateway in front of a provider that plays a script."""
    opened: list[Any] = []

    def start(
        play: Callable[[socket.socket, bytes], None], **server: Any
    ) -> tuple[RunningGateway, Script]:
        script = Script(play)
        config = configuration(script.url)
        config["server"] = server
        config["providers"]["anthropic"]["network"] |= {"idle_timeout_s": 20, "timeout_s": 20}
        running = RunningGateway(tmp_path / "scripted", config)
        opened.extend([running, script])
        return running, script

    yield start
    for each in opened:
        (each.stop if isinstance(each, RunningGateway) else each.close)()


def stream(url: str, **headers: str) -> Any:
    """An open streaming request."""
    return httpx.stream(
        "POST", f"{url}/anthropic/v1/messages?beta=true", json=message(stream=True),
        headers=bearer() | headers, timeout=20,
    )  # fmt: skip


def settled(gateway: RunningGateway, wait_s: float = 5.0) -> int:
    """What the key has spent, in nano-USD, once nothing is reserved any more."""
    deadline = time.monotonic() + wait_s
    while time.monotonic() < deadline:
        spent, reserved = gateway.spent()["keys:alice-dev"]
        if reserved == "0":
            return round(float(spent) * 1e9)
        time.sleep(0.02)
    raise AssertionError(f"still reserved: {gateway.spent()}")


def cost(input_tokens: int, output_tokens: int, cache_read: int = 0) -> int:
    """Nano-USD of these tokens on the test's model: 3, 15 and 0.30 USD a million."""
    return input_tokens * 3000 + output_tokens * 15000 + cache_read * 300


def test_every_byte_reaches_the_client_and_the_books_agree(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    before = gateway.spent()["keys:alice-dev"][0]
    headers = {"x-mock-usage": json.dumps(USAGE), "x-mock-chunks": "20"}
    body = message(stream=True)
    with httpx.stream("POST", f"{gateway.url}/v1/messages", json=body,
                      headers=bearer() | headers) as answer:  # fmt: skip
        through = b"".join(answer.iter_raw())
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert "content-length" not in answer.headers
    direct = httpx.post(f"{mock.url}/v1/messages", json=body,
                        headers={"x-api-key": "x"} | headers).content  # fmt: skip

    def without_ids(raw: bytes) -> bytes:
        found = json.loads(raw.split(b"data: ")[1].split(b"\n")[0])
        return raw.replace(found["message"]["id"].encode(), b"ID")

    assert without_ids(through) == without_ids(direct)
    after = gateway.spent()["keys:alice-dev"]
    assert round((float(after[0]) - float(before)) * 1e9) == cost(1000, 400)
    assert after[1] == "0"


def test_a_chunk_does_not_wait_for_the_next(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    sent: list[float] = []
    go = threading.Event()

    def play(connection: socket.socket, _: bytes) -> None:
        connection.sendall(HEAD)
        for piece in (START, *[DELTA % (b"word %d " % n) for n in range(5)], END):
            go.wait(10)
            go.clear()
            sent.append(time.monotonic())
            connection.sendall(piece)

    gateway, _ = scripted(play)
    arrived: list[tuple[float, bytes]] = []
    go.set()
    with stream(gateway.url) as answer:
        for piece in answer.iter_raw():
            arrived.append((time.monotonic(), piece))
            go.set()  # the provider writes its next piece only now, when this one is here
    assert len(arrived) == len(sent) == 7
    assert b"".join(piece for _, piece in arrived).endswith(END)
    assert all(got >= said for said, (got, _) in zip(sent, arrived, strict=True))


def test_a_split_at_any_byte_changes_nothing(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    whole = START + DELTA % b"some words" + END

    def play(connection: socket.socket, body: bytes) -> None:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        cut = json.loads(body)["max_tokens"] - 1000
        connection.sendall(HEAD)
        connection.sendall(whole[:cut])
        time.sleep(0.002)
        connection.sendall(whole[cut:])

    gateway, _ = scripted(play)
    cuts = range(0, len(whole), 7)
    with httpx.Client(headers=bearer(), timeout=20) as client:
        for cut in cuts:
            body = message(stream=True, max_tokens=1000 + cut)
            answer = client.post(f"{gateway.url}/v1/messages", json=body)
            assert answer.content == whole
    assert settled(gateway) == len(cuts) * cost(1000, 400, 50)


def _disconnect(gateway: RunningGateway, until: Callable[[bytes], bool]) -> None:
    """Reads a stream until a condition, then drops the connection."""
    parts = urlsplit(gateway.url)
    body = json.dumps(message(stream=True)).encode()
    head = "".join(f"{name}: {value}\r\n" for name, value in bearer().items())
    with socket.create_connection((parts.hostname, parts.port), timeout=10) as client:
        client.sendall(
            f"POST /v1/messages HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n{head}\r\n"
            .encode() + body
        )  # fmt: skip
        seen = b""
        while not until(seen):
            seen += client.recv(65536)


def test_a_client_that_leaves_pays_for_what_flowed_and_frees_the_provider(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    closed: list[float] = []
    text = b"exactly thirty-six bytes of text ok. "  # 37 bytes, more than ten tokens' worth

    def play(connection: socket.socket, _: bytes) -> None:
        connection.sendall(HEAD + START + (DELTA % text) * 8)
        connection.settimeout(10)
        assert connection.recv(1) == b""  # nothing more comes; the gateway hangs up
        closed.append(time.monotonic())

    gateway, _ = scripted(play)
    _disconnect(gateway, lambda seen: seen.count(text) == 8)
    left = time.monotonic()
    assert settled(gateway) == cost(1000, -(-8 * len(text) * 10 // 36), 50)
    deadline = time.monotonic() + 5
    while not closed and time.monotonic() < deadline:
        time.sleep(0.005)
    assert closed[0] - left <= 0.1
    rows = gateway.command("usage", "--by", "key")["rows"]
    assert rows[0]["requests"] == 1


def test_a_client_that_leaves_before_the_answer_pays_for_its_input(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    closed = threading.Event()
    asked = threading.Event()

    def play(connection: socket.socket, _: bytes) -> None:
        asked.set()
        connection.settimeout(10)
        assert connection.recv(1) == b""
        closed.set()

    gateway, script = scripted(play)
    _disconnect(gateway, lambda _: asked.wait(10))
    assert closed.wait(5)
    assert settled(gateway) == cost(-(-len(script.bodies[0]) * 10 // 36), 0)


def test_a_broken_stream_ends_with_an_error_event_and_is_billed(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    def play(connection: socket.socket, _: bytes) -> None:
        piece = (DELTA % b"thirty-six bytes, which are ten tokens")[:-3]
        connection.sendall(
            HEAD.replace(b"connection: close", b"transfer-encoding: chunked")
            + b"%x\r\n" % len(START + piece) + START + piece + b"\r\n"
        )  # fmt: skip

    gateway, _ = scripted(play)
    with stream(gateway.url) as answer:
        received = b"".join(answer.iter_raw())
    body, _, event = received.partition(b"\n\nevent: error\ndata: ")
    assert body.startswith(START[:-2])
    error = json.loads(event)
    assert error["error"]["type"] == "api_error"
    assert settled(gateway) >= cost(1000, 1, 50)


def test_a_stream_that_ends_too_early_is_told_and_billed(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    def play(connection: socket.socket, _: bytes) -> None:
        connection.sendall(HEAD + START + DELTA % b"a few words")

    gateway, _ = scripted(play)
    with stream(gateway.url) as answer:
        received = b"".join(answer.iter_raw())
    assert received.startswith(START + DELTA % b"a few words" + b"event: error\ndata: ")
    assert settled(gateway) == cost(1000, 4, 50)


def test_how_much_text_a_token_is_is_learned_from_whole_streams(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    text = b"w" * 164
    whole, hidden = 4, 1

    def play(connection: socket.socket, _: bytes) -> None:
        flowed = START + (DELTA % text) * 10  # 400 tokens, 4.1 bytes each
        number = len(script.bodies)
        if number <= whole:
            connection.sendall(HEAD + flowed + END)
        elif number <= whole + hidden:  # most of it was thought, not written
            connection.sendall(HEAD + START + DELTA % b"so little" + END)
        else:
            connection.sendall(HEAD + START + (DELTA % text) * 5)

    gateway, script = scripted(play)
    for _ in range(whole + hidden):
        with stream(gateway.url) as answer:
            answer.read()
    before = settled(gateway)
    assert before == (whole + hidden) * cost(1000, 400, 50)
    with stream(gateway.url) as answer:
        answer.read()
    assert settled(gateway) - before == cost(1000, 200, 50)


def test_what_is_estimated_stays_within_the_output_that_was_asked_for(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    def play(connection: socket.socket, _: bytes) -> None:
        connection.sendall(HEAD + START + (DELTA % (b"w" * 3_600)) * 3)  # 3,000 tokens of text

    gateway, _ = scripted(play)  # message() asks for 1,000
    with stream(gateway.url) as answer:
        answer.read()
    assert settled(gateway) == cost(1000, 1000, 50)


@pytest.mark.parametrize("length", ["content-length: 3600\r\n", ""], ids=["told", "not-told"])
def test_a_json_answer_that_breaks_off_is_billed_by_its_size(
    scripted: Callable[..., tuple[RunningGateway, Script]], length: str
) -> None:
    def play(connection: socket.socket, _: bytes) -> None:
        head = f"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n{length}"
        if not length:
            head += "transfer-encoding: chunked\r\n"
        body = b"{" + b" " * 359
        connection.sendall(head.encode() + b"\r\n" + (body if length else b"168\r\n" + body))

    gateway, script = scripted(play)
    answer = httpx.post(f"{gateway.url}/v1/messages", json=message(), headers=bearer())
    assert answer.status_code == 529
    asked = -(-len(script.bodies[0]) * 10 // 36)
    assert settled(gateway) == cost(asked, 1000 if length else 100)
    [row] = gateway.command("usage", "--by", "key")["rows"]
    assert row["requests"] == 1


def test_a_silent_provider_gets_pinged_over(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    def play(connection: socket.socket, _: bytes) -> None:
        connection.sendall(HEAD + START)
        time.sleep(1.2)
        connection.sendall(END)

    gateway, _ = scripted(play, ping_interval_s=0.3)
    with stream(gateway.url) as answer:
        received = b"".join(answer.iter_raw())
    pings = received.count(b'event: ping\ndata: {"type": "ping"}\n\n')
    assert pings >= 2
    assert received.replace(b'event: ping\ndata: {"type": "ping"}\n\n', b"") == START + END
    assert settled(gateway) == cost(1000, 400, 50)


def test_an_error_event_of_the_provider_passes(gateway: RunningGateway) -> None:
    with stream(gateway.url, **{"x-mock-error-event": "1"}) as answer:
        received = b"".join(answer.iter_raw())
    assert received.count(b"event: error") == 1
    assert gateway.spent()["keys:alice-dev"][1] == "0"


def test_a_slow_client_holds_the_provider_back(
    scripted: Callable[..., tuple[RunningGateway, Script]],
) -> None:
    piece = DELTA % (b"x" * 60_000)
    sent = [0]
    done = threading.Event()

    def play(connection: socket.socket, _: bytes) -> None:
        connection.settimeout(1.0)
        connection.sendall(HEAD + START)
        try:
            for _ in range(2000):
                connection.sendall(piece)
                sent[0] += len(piece)
        except TimeoutError:
            done.set()
            connection.settimeout(10)

    gateway, _ = scripted(play)
    with stream(gateway.url) as answer:
        assert done.wait(15), "the provider was never held back"
        assert sent[0] < 40_000_000  # socket buffers and ours, not the 120 MB it wanted to send
        answer.close()
    assert settled(gateway) > cost(1000, 1)
