"""Exchanges through an HTTP proxy behave as direct ones do."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from bifrost.errors import UpstreamError
from bifrost.upstream import WAKE, NetworkOptions, Origin, Upstreams
from tests.authority import certify
from tests.loopback import OK, Handler, Peer, Server, on_both_loops, post, replies, until

pytestmark = on_both_loops
CREDENTIALS = b"Proxy-Authorization: Basic " + base64.b64encode(b"corp:p@ss")
HEAD_ONLY = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"


class Proxy(Server):
    """Tunnels CONNECT and forwards absolute-form requests, for one user only."""

    def __init__(self) -> None:
        super().__init__(self.relay)
        self.heads: list[bytes] = []

    @property
    def url(self) -> str:
        return f"http://corp:p%40ss@127.0.0.1:{self.port}"

    async def relay(self, peer: Peer) -> None:
        head = await peer.reader.readuntil(b"\r\n\r\n")
        self.heads.append(head)
        if CREDENTIALS not in head:
            await peer.write(b"HTTP/1.1 407 Who\r\ncontent-length: 0\r\n\r\n")
            return
        method, target, rest = head.split(b" ", 2)
        address = target if method == b"CONNECT" else target.split(b"/")[2]
        host, port = address.decode().rsplit(":", 1)
        reader, writer = await asyncio.open_connection(host, int(port))
        if method == b"CONNECT":
            await peer.write(b"HTTP/1.1 200 Established\r\n\r\n")
        else:
            path = b"/" + target.split(b"/", 3)[3]
            writer.write(b" ".join((method, path, rest)).replace(CREDENTIALS + b"\r\n", b""))
        await asyncio.wait(
            [
                asyncio.create_task(self.copy(peer.reader, writer)),
                asyncio.create_task(self.copy(reader, peer.writer)),
            ]
        )

    async def copy(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(65536):
                writer.write(data)
                await writer.drain()
        except ConnectionError:
            pass
        writer.close()


def through(
    run: Any,
    handler: Handler,
    check: Callable[[Origin, Server, Proxy], Any],
    tls: tuple[str, Any] = ("", None),
    **options: Any,
) -> None:
    """Run ``check`` with an origin that is reached through a proxy."""

    async def main() -> None:
        async with Server(handler, tls=tls[1]) as server, Proxy() as proxy:
            upstreams = Upstreams()
            network = NetworkOptions(proxy=proxy.url, ca_file=tls[0] or None, **options)
            scheme = "https" if tls[1] else "http"
            origin = upstreams.get(f"{scheme}://127.0.0.1:{server.port}", network)
            await check(origin, server, proxy)
            await upstreams.close()

    run(main())


async def half(peer: Peer) -> None:
    await peer.request()
    await peer.write(HEAD_ONLY + b"12345")
    await peer.ended()


def test_a_tls_origin_is_tunnelled_and_kept(run: Any, tmp_path: Path) -> None:
    tls = certify(tmp_path)

    async def check(origin: Origin, server: Server, proxy: Proxy) -> None:
        for body in (b"{}", b"x" * 3_000_000):
            exchange = await origin.send(post(body))
            assert await exchange.read_all(10) == b"ok" and exchange.complete
            assert exchange.received == 2
        assert proxy.heads[0].startswith(b"CONNECT 127.0.0.1:%d " % server.port)
        assert (len(proxy.heads), server.requests) == (1, 2)

    through(run, replies(OK), check, tls)


def test_the_request_arrives_as_it_was_written(run: Any) -> None:
    seen: list[bytes] = []

    async def record(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.write(OK)

    async def check(origin: Origin, server: Server, proxy: Proxy) -> None:
        host = f"127.0.0.1:{server.port}"
        request = post(bytes(range(256)), "/v1/messages?beta=true&q=%2F", host)
        request[0] = request[0][:-2] + b"x-api-key: k\r\nX-Twice: 1\r\nX-Twice: 2\r\n\r\n"
        await (await origin.send(request)).read_all(10)
        head, _, body = seen[-1].partition(b"\r\n\r\n")
        line, *fields = request[0].split(b"\r\n")[:-2]
        assert head.split(b"\r\n")[0] == line and body == request[1]
        assert sorted(head.lower().split(b"\r\n")[1:]) == sorted(f.lower() for f in fields)

    seen.clear()
    through(run, record, check)


def test_body_bytes_come_through_untouched(run: Any) -> None:
    gzipped = bytes.fromhex("1f8b0800000000000003cb48cdc9c95728cf2fca49010085114a0d0b000000")
    response = (
        b"HTTP/1.1 200 OK\r\nContent-Encoding: gzip\r\nX-Request-Id: r\r\n"
        b"Transfer-Encoding: chunked\r\n\r\n%x\r\n%s\r\n0\r\n\r\n" % (len(gzipped), gzipped)
    )

    async def check(origin: Origin, *_: object) -> None:
        exchange = await origin.send(post())
        assert exchange.status == 200 and (b"x-request-id", b"r") in exchange.headers
        assert await exchange.read_all(100) == gzipped

    through(run, replies(b"HTTP/1.1 103 Early\r\n\r\n" + response), check)


def test_an_error_or_a_redirect_is_only_a_status(run: Any) -> None:
    response = b"HTTP/1.1 307 Elsewhere\r\nlocation: /x\r\ncontent-length: 2\r\n\r\nno"

    async def check(origin: Origin, *_: object) -> None:
        exchange = await origin.send(post())
        assert (exchange.status, await exchange.read_all(10)) == (307, b"no")

    through(run, replies(response), check)


def test_pieces_arrive_one_by_one_and_a_ping_wakes_the_reader(run: Any) -> None:
    async def check(origin: Origin, server: Server, _: Proxy) -> None:
        exchange = await origin.send(post())
        assert await exchange.read() == b"12345"
        assert exchange.read_nowait() is None and not exchange.complete
        for _ in range(2):
            reading = asyncio.ensure_future(exchange.read())
            await asyncio.sleep(0.01)
            exchange.wake()
            assert await reading is WAKE
        await server.peers[0].write(b"67890")
        assert [await exchange.read(), await exchange.read()] == [b"67890", b""]
        assert exchange.complete and exchange.read_nowait() == b""
        exchange.cancel()
        assert await exchange.read() == b""

    through(run, half, check)


def test_cancel_closes_the_servers_connection(run: Any) -> None:
    async def check(origin: Origin, server: Server, _: Proxy) -> None:
        exchange = await origin.send(post())
        await exchange.read()
        reading = asyncio.ensure_future(exchange.read())
        await asyncio.sleep(0.01)
        cancelled_at = time.monotonic()
        exchange.cancel()
        with pytest.raises(UpstreamError, match="cut off"):
            await reading
        await until(lambda: server.peers[0].ended_at)
        assert server.peers[0].ended_at - cancelled_at < 0.1

    through(run, half, check)


def test_a_cancelled_reader_loses_nothing(run: Any) -> None:
    async def check(origin: Origin, server: Server, _: Proxy) -> None:
        exchange = await origin.send(post())
        await exchange.read()
        reading = asyncio.create_task(exchange.read())
        await asyncio.sleep(0.01)
        reading.cancel()
        await asyncio.wait([reading])
        await server.peers[0].write(b"67890")
        assert await exchange.read_all(10) == b"67890"

    through(run, half, check)


def test_a_slow_reader_holds_the_server_back(run: Any) -> None:
    size, piece = 50 << 20, bytes(range(256)) * 256
    written = 0

    async def flood(peer: Peer) -> None:
        nonlocal written
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: %d\r\n\r\n" % size)
        while written < size:
            await peer.write(piece)
            written += len(piece)

    async def check(origin: Origin, *_: object) -> None:
        exchange = await origin.send(post())
        await asyncio.sleep(0.4)
        assert written < size // 2
        digest = hashlib.sha256()
        while data := await exchange.read():
            digest.update(data)
        assert digest.digest() == hashlib.sha256(piece * (size // len(piece))).digest()

    through(run, flood, check)


def test_time_limits(run: Any) -> None:
    async def speaks_seldom(peer: Peer) -> None:
        while not (request := await peer.request()).endswith(b"{}"):
            await peer.write(OK if request.endswith(b"whole") else HEAD_ONLY + b"12345")
        await peer.ended()

    async def check(origin: Origin, server: Server, _: Proxy) -> None:
        for count in (2, 4):  # asked on a connection that was kept
            await (await origin.send(post(b"whole"))).read_all(10)
            with pytest.raises(UpstreamError, match=r"did not answer within 0\.3 s") as caught:
                await origin.send(post())
            assert caught.value.sent and server.requests == count
        exchange = await origin.send(post(b"half"))
        assert await exchange.read() == b"12345"
        with pytest.raises(UpstreamError, match=r"sent nothing for 0\.1 s") as caught:
            await exchange.read()
        assert caught.value.sent

    through(run, speaks_seldom, check, timeout_s=0.3, idle_timeout_s=0.1)


def test_a_body_cut_short_or_too_long_breaks(run: Any) -> None:
    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.write(HEAD_ONLY + b"12345")

    async def check(origin: Origin, *_: object) -> None:
        for limit, text in ((100, "in the middle of a response"), (4, "more than 4 bytes")):
            with pytest.raises(UpstreamError, match=text) as caught:
                await (await origin.send(post())).read_all(limit)
            assert caught.value.sent

    through(run, cut, check)


def test_a_kept_connection_that_dies_under_a_request_is_replaced(run: Any) -> None:
    async def once_then_close(peer: Peer) -> None:
        await peer.request()
        await peer.write(OK)
        await peer.request()

    async def check(origin: Origin, server: Server, _: Proxy) -> None:
        for _ in range(2):
            assert await (await origin.send(post())).read_all(10) == b"ok"
        assert (server.requests, len(server.peers)) == (3, 2)

    through(run, once_then_close, check)


def test_a_fresh_connection_that_dies_is_not_tried_again(run: Any) -> None:
    async def never(peer: Peer) -> None:
        await peer.request()

    async def check(origin: Origin, server: Server, _: Proxy) -> None:
        with pytest.raises(UpstreamError, match="without a response") as caught:
            await origin.send(post())
        assert caught.value.sent and server.requests == 1

    through(run, never, check)


def test_what_keeps_the_tunnel_from_being_made_was_not_sent(run: Any, tmp_path: Path) -> None:
    _, context = certify(tmp_path)

    async def main() -> None:
        async with Server(replies(OK), tls=context) as server, Proxy() as proxy:
            upstreams = Upstreams()
            base = f"https://127.0.0.1:{server.port}"
            stranger = proxy.url.replace("corp:p%40ss", "corp:hunter2")
            for options, text in (
                (NetworkOptions(proxy=proxy.url), "certificate that does not verify"),
                (NetworkOptions(proxy=stranger), "answered 407"),
                (NetworkOptions(proxy="http://a:hunter2@127.0.0.1:1", max_retries=1), "refused"),
            ):
                with pytest.raises(UpstreamError, match=text) as caught:
                    await upstreams.get(base, options).send(post())
                assert not caught.value.sent and "hunter2" not in str(caught.value)
            await upstreams.close()

    run(main())


def test_draining_waits_for_the_exchanges_in_flight(run: Any) -> None:
    async def main() -> None:
        async with Server(half) as server, Proxy() as proxy:
            upstreams = Upstreams()
            network = NetworkOptions(proxy=proxy.url)
            origin = upstreams.get(f"http://127.0.0.1:{server.port}", network)
            exchange = await origin.send(post())
            dropping = asyncio.create_task(upstreams.retain([], 5))
            await asyncio.sleep(0.01)
            await server.peers[0].write(b"67890")
            assert await exchange.read_all(10) == b"1234567890"
            await dropping
            with pytest.raises(UpstreamError, match="no longer used"):
                await origin.send(post())
            await upstreams.close()

    run(main())
