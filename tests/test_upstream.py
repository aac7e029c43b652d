"""The upstream client against scripted servers, on asyncio and on uvloop."""

from __future__ import annotations

import asyncio
import hashlib
from typing import Any

import pytest

from bifrost._fast.client import WAKE, Broken, ConnectFailed, Pool
from tests.loopback import OK, Peer, Server, on_both_loops, post, replies, until

CHUNKED = (
    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-Empty:\r\nTrailer: t\r\n\r\n"
    b"4\r\nWiki\r\n6;x=y\r\npedia \r\n0\r\nt: late\r\n\r\n"
)
HEAD_ONLY = b"HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\n"

pytestmark = on_both_loops


def pool_of(server: Server, **options: Any) -> Pool:
    return Pool("127.0.0.1", server.port, **options)


async def body_of(pool: Pool, request: list[bytes] | None = None) -> bytes:
    return await (await pool.send(request or post())).read_all(1 << 26)


async def silent(peer: Peer) -> None:
    await peer.request()
    await peer.ended()


async def half(peer: Peer) -> None:
    await peer.request()
    await peer.write(HEAD_ONLY + b"12345")
    await peer.ended()


def test_one_connection_serves_requests_in_turn(run: Any) -> None:
    async def main() -> None:
        async with Server(replies(OK)) as server:
            pool = pool_of(server)
            for _ in range(5):
                exchange = await pool.send(post(b"x" * 30_000))
                assert (exchange.status, exchange.headers) == (200, [(b"content-length", b"2")])
                assert exchange.complete and not exchange.early
                assert (exchange.read_nowait(), await exchange.read()) == (b"ok", b"")
            assert (pool.opened_total, pool.reused_total) == (1, 4)
            assert (pool.open, pool.idle, pool.active) == (1, 1, 0)
            pool.close()
            assert pool.open == 0
            with pytest.raises(ConnectFailed):
                await pool.send(post())

    run(main())


def test_the_connection_used_last_is_used_first_and_few_stay(run: Any) -> None:
    async def main() -> None:
        async with Server(replies(OK)) as server:
            pool = pool_of(server, max_idle=2, idle_close_s=0.2)
            await asyncio.gather(*(body_of(pool) for _ in range(4)))
            assert (pool.opened_total, pool.open, pool.idle) == (4, 2, 2)
            before = [peer.requests for peer in server.peers]
            for _ in range(3):
                await body_of(pool)
            more = [peer.requests - n for peer, n in zip(server.peers, before, strict=True)]
            assert sorted(more) == [0, 0, 0, 3]
            await until(lambda: pool.open == 0)

    run(main())


def test_a_kept_connection_that_dies_under_a_request_is_replaced_once(run: Any) -> None:
    async def once_then_close(peer: Peer) -> None:
        await peer.request()
        await peer.write(OK)
        await peer.request()

    async def never(peer: Peer) -> None:
        await peer.request()

    async def main() -> None:
        async with Server(once_then_close, replies(OK)) as server:
            pool = pool_of(server)
            assert [await body_of(pool), await body_of(pool)] == [b"ok", b"ok"]
            assert (server.requests, pool.opened_total, pool.open) == (3, 2, 1)
            pool.close()
        async with Server(once_then_close, never) as server:
            pool = pool_of(server)
            await body_of(pool)
            with pytest.raises(Broken, match="closed the connection without a response") as caught:
                await body_of(pool)
            assert caught.value.sent
            assert (server.requests, pool.opened_total, pool.open) == (3, 2, 0)

    run(main())


def test_a_connection_closed_while_idle_leaves_the_pool(run: Any) -> None:
    async def main() -> None:
        async with Server(replies(OK, times=1)) as server:
            pool = pool_of(server)
            for _ in range(2):
                await body_of(pool)
                await until(lambda: pool.open == 0)
            assert pool.opened_total == 2

    run(main())


@pytest.mark.parametrize(
    ("response", "body"),
    [
        (b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok", b"ok"),
        (b"HTTP/1.1 200 OK\r\n\r\nto the end", b"to the end"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nto the end", b"to the end"),
        (OK + OK, b"ok"),
        (OK + b"junk", b"ok"),
    ],
)
def test_connections_that_cannot_be_used_again(run: Any, response: bytes, body: bytes) -> None:
    async def main() -> None:
        async with Server(replies(response, times=1)) as server:
            pool = pool_of(server)
            assert await body_of(pool) == body
            assert (pool.open, pool.active) == (0, 0)

    run(main())


@pytest.mark.parametrize(
    ("response", "status", "body"),
    [
        (b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early\r\nlink: x\r\n\r\n" + OK, 200, b"ok"),
        (b"HTTP/1.1 204 None\r\n\r\n", 204, b""),
        (b"HTTP/1.1 304 Same\r\ncontent-length: 9\r\n\r\n", 304, b""),
        (b"HTTP/1.0 200 OK\r\nConnection: keep-alive\r\nContent-Length: 2\r\n\r\nok", 200, b"ok"),
        (CHUNKED, 200, b"Wikipedia "),
    ],
)
def test_connections_that_are_used_again(
    run: Any, response: bytes, status: int, body: bytes
) -> None:
    async def main() -> None:
        async with Server(replies(response)) as server:
            pool = pool_of(server)
            for _ in range(2):
                exchange = await pool.send(post())
                assert (exchange.status, await exchange.read_all(100)) == (status, body)
                assert b"link" not in dict(exchange.headers) and b"t" not in dict(exchange.headers)
            assert (pool.opened_total, pool.idle) == (1, 1)
            pool.close()

    run(main())


def test_a_response_split_at_every_byte(run: Any) -> None:
    async def every_split(peer: Peer) -> None:
        for at in range(1, len(CHUNKED)):
            await peer.request()
            await peer.write(CHUNKED[:at], CHUNKED[at:])
        await peer.request()
        await peer.write(*(CHUNKED[at : at + 1] for at in range(len(CHUNKED))))
        await peer.ended()

    async def main() -> None:
        async with Server(every_split) as server:
            pool = pool_of(server)
            for _ in range(len(CHUNKED)):
                exchange = await pool.send(post())
                assert await exchange.read_all(100) == b"Wikipedia "
                assert exchange.headers[1] == (b"x-empty", b"")
            assert pool.opened_total == 1
            pool.close()

    run(main())


@pytest.mark.parametrize(
    "response",
    [
        b"SSH-2.0-OpenSSH\r\n",
        b"HTTP/1.1 101 Switching\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\ntransfer-encoding: chunked\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\n" + b"x-large: %s\r\n" % (b"x" * 70_000) * 5,
    ],
)
def test_what_is_not_http_breaks_the_exchange_without_a_retry(run: Any, response: bytes) -> None:
    async def main() -> None:
        async def garbage(peer: Peer) -> None:
            await peer.request()
            await peer.write(response)
            await peer.ended()

        async with Server(garbage) as server:
            pool = pool_of(server)
            with pytest.raises(Broken) as caught:
                await body_of(pool)
            assert caught.value.sent and server.requests == 1 and pool.open == 0

    run(main())


def test_an_unsolicited_response_closes_the_idle_connection(run: Any) -> None:
    async def talkative(peer: Peer) -> None:
        await peer.request()
        await peer.write(OK)
        await asyncio.sleep(0.02)
        await peer.write(OK)
        await peer.ended()

    async def main() -> None:
        async with Server(talkative, replies(OK)) as server:
            pool = pool_of(server)
            await body_of(pool)
            await until(lambda: pool.open == 0)
            assert await body_of(pool) == b"ok"
            pool.close()

    run(main())


def test_an_early_reply_is_delivered_and_the_connection_closed(run: Any) -> None:
    async def refuses_large(peer: Peer) -> None:
        await peer.reader.readuntil(b"\r\n\r\n")
        peer.reader._transport.pause_reading()  # type: ignore[attr-defined]
        await peer.write(b"HTTP/1.1 413 Too Large\r\ncontent-length: 3\r\n\r\nbig")
        await until(lambda: pools[0].open == 0)

    pools: list[Pool] = []

    async def main() -> None:
        async with Server(refuses_large, replies(OK)) as server:
            pools.append(pool_of(server))
            exchange = await pools[0].send(post(b"x" * (30 << 20)))
            assert (exchange.status, await exchange.read_all(10)) == (413, b"big")
            assert exchange.early and pools[0].open == 0
            assert await body_of(pools[0]) == b"ok"
            pools[0].close()

    run(main())


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
        await peer.ended()

    async def main() -> None:
        nonlocal written
        written = 0
        async with Server(flood) as server:
            pool = pool_of(server, idle_timeout_s=0.1)
            exchange = await pool.send(post())
            await asyncio.sleep(0.4)  # longer than the idle timeout: waiting for us is no silence
            assert written < size // 2
            digest, largest = hashlib.sha256(), 0
            while data := await exchange.read():
                digest.update(data)
                largest = max(largest, len(data))
            assert largest <= 262_144 * 3
            assert digest.digest() == hashlib.sha256(piece * (size // len(piece))).digest()
            pool.close()

    run(main())


def test_a_body_cut_short_delivers_what_came_then_fails(run: Any) -> None:
    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.write(HEAD_ONLY + b"12345")

    async def main() -> None:
        async with Server(cut) as server:
            pool = pool_of(server)
            exchange = await pool.send(post())
            await until(lambda: pool.open == 0)
            assert exchange.read_nowait() == b"12345"
            for _ in range(2):
                with pytest.raises(Broken, match="in the middle of a response"):
                    await exchange.read()
            assert not exchange.complete

    run(main())


def test_a_ping_wakes_a_waiting_reader_and_nothing_is_lost(run: Any) -> None:
    async def main() -> None:
        async with Server(half) as server:
            pool = pool_of(server)
            exchange = await pool.send(post())
            exchange.wake()
            assert await exchange.read() == b"12345"
            for _ in range(2):
                reading = asyncio.ensure_future(exchange.read())
                await asyncio.sleep(0.01)
                exchange.wake()
                assert await reading is WAKE
            assert exchange.read_nowait() is None
            await server.peers[0].write(b"67890")
            assert [await exchange.read(), await exchange.read()] == [b"67890", b""]
            exchange.cancel()
            assert pool.idle == 1
            pool.close()

    run(main())


def test_a_body_over_the_limit_is_cut_off(run: Any) -> None:
    async def main() -> None:
        async with Server(half) as server:
            pool = pool_of(server)
            with pytest.raises(Broken, match="more than 4 bytes"):
                await (await pool.send(post())).read_all(4)
            assert pool.open == 0

    run(main())
