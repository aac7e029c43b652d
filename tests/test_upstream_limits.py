"""Time limits, cancellation and the connection limit of the upstream client."""

from __future__ import annotations

import asyncio
import gc
import socket
import time
from typing import Any

import pytest

from bifrost._fast.client import Broken, ConnectFailed, Pool, Timeout
from tests.loopback import OK, Peer, Server, full_backlog, on_both_loops, post, replies, until

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


def test_a_refused_connection_is_reported_as_not_sent(run: Any) -> None:
    async def main() -> None:
        with socket.socket() as closed:
            closed.bind(("127.0.0.1", 0))
            pool = Pool("127.0.0.1", closed.getsockname()[1], retries=1)
            with pytest.raises(ConnectFailed, match="Connection refused") as caught:
                await pool.send(post())
            assert not caught.value.sent and pool.open == 0

    run(main())


def test_a_refused_connection_is_tried_again(run: Any) -> None:
    async def main() -> None:
        with socket.socket() as late:
            late.bind(("127.0.0.1", 0))
            pool = Pool("127.0.0.1", late.getsockname()[1], first_byte_timeout_s=0.05)
            sending = asyncio.create_task(pool.send(post()))
            await asyncio.sleep(0.01)
            late.listen()
            with pytest.raises(Timeout, match="did not answer"):
                await sending
            assert (pool.opened_total, pool.open) == (1, 0)

    run(main())


def test_connecting_is_bounded_and_can_be_cancelled(run: Any) -> None:
    async def main() -> None:
        listener, callers = full_backlog()
        pool = Pool("127.0.0.1", listener.getsockname()[1], connect_timeout_s=0.2)
        with pytest.raises(Timeout, match=r"within 0\.2 s") as caught:
            await pool.send(post())
        assert (caught.value.phase, caught.value.sent, pool.open) == ("connect", False, 0)
        task = asyncio.create_task(pool.send(post()))
        await until(lambda: pool.open == 1)
        task.cancel()
        await asyncio.wait([task])
        assert task.cancelled() and pool.open == 0
        for sock in (listener, *callers):
            sock.close()

    run(main())


def test_a_silent_server_times_out_once(run: Any) -> None:
    async def main() -> None:
        async with Server(silent) as server:
            pool = pool_of(server, first_byte_timeout_s=0.1)
            with pytest.raises(Timeout, match=r"did not answer within 0\.1 s") as caught:
                await pool.send(post())
            assert (caught.value.phase, caught.value.sent) == ("first_byte", True)
            assert (server.requests, pool.open, pool.active) == (1, 0, 0)

    run(main())


def test_silence_inside_a_body_times_out_but_a_slow_body_does_not(run: Any) -> None:
    async def slow(peer: Peer) -> None:
        await peer.request()
        await peer.write(HEAD_ONLY)
        for _ in range(10):
            await asyncio.sleep(0.05)
            await peer.write(b"x")
        await half(peer)

    async def main() -> None:
        async with Server(slow) as server:
            pool = pool_of(server, idle_timeout_s=0.3)
            assert await body_of(pool) == b"x" * 10
            exchange = await pool.send(post())
            assert await exchange.read() == b"12345"
            with pytest.raises(Timeout, match="in the middle") as caught:
                await exchange.read()
            assert (caught.value.phase, caught.value.sent, pool.open) == ("idle", True, 0)

    run(main())


def test_cancel_closes_the_servers_connection_at_once(run: Any) -> None:
    async def main() -> None:
        async with Server(half) as server:
            pool = pool_of(server)
            exchange = await pool.send(post())
            assert await exchange.read() == b"12345"
            reading = asyncio.ensure_future(exchange.read())
            await asyncio.sleep(0.01)
            cancelled_at = time.monotonic()
            exchange.cancel()
            exchange.cancel()
            with pytest.raises(Broken, match="cut off"):
                await reading
            await until(lambda: server.peers[0].ended_at)
            assert server.peers[0].ended_at - cancelled_at < 0.1
            assert (pool.open, pool.active) == (0, 0)

    run(main())


def test_cancelled_tasks_leave_nothing_behind(run: Any) -> None:
    async def main() -> None:
        async with Server(silent, half, replies(OK)) as server:
            pool = pool_of(server, max_connections=1)
            in_head = asyncio.create_task(pool.send(post()))
            await until(lambda: server.requests == 1)
            in_queue = asyncio.create_task(pool.send(post()))
            await until(lambda: pool.waiting == 1)
            in_queue.cancel()
            await asyncio.wait([in_queue])
            assert (pool.waiting, pool.open) == (0, 1)
            in_head.cancel()
            await asyncio.wait([in_head])
            assert (pool.open, pool.active) == (0, 0)
            exchange = await pool.send(post())
            await exchange.read()
            in_read = asyncio.create_task(exchange.read())
            await asyncio.sleep(0)
            in_read.cancel()
            await asyncio.wait([in_read])
            exchange.cancel()
            assert (pool.open, await body_of(pool), pool.idle) == (0, b"ok", 1)
            pool.close()

    run(main())


def test_a_send_cancelled_at_any_step_leaks_no_connection(run: Any) -> None:
    async def main() -> None:
        async with Server(replies(OK)) as server:
            pool = pool_of(server, max_connections=2)
            for steps in range(40):
                tasks = [asyncio.create_task(body_of(pool)) for _ in range(4)]
                for _ in range(steps % 20):
                    await asyncio.sleep(0)
                for task in tasks[steps % 2 :: 2]:
                    task.cancel()
                await asyncio.wait(tasks)
                assert pool.open == pool.idle <= 2 and pool.active == pool.waiting == 0
            await until(lambda: server.serving == pool.open)
            pool.close()

    run(main())


def test_a_full_pool_serves_in_order_of_arrival(run: Any) -> None:
    async def main() -> None:
        async with Server(replies(OK)) as server:
            pool = pool_of(server, max_connections=1)
            done: list[int] = []

            async def one(number: int) -> None:
                await body_of(pool)
                done.append(number)

            tasks = [asyncio.create_task(one(number)) for number in range(6)]
            await asyncio.sleep(0)
            tasks[3].cancel()
            await asyncio.wait(tasks)
            assert done == [0, 1, 2, 4, 5]
            assert (pool.opened_total, pool.reused_total) == (1, 4)
            pool.close()

    run(main())


def test_the_queue_is_bounded_by_the_connect_timeout(run: Any) -> None:
    async def main() -> None:
        async with Server(half) as server:
            pool = pool_of(server, max_connections=1, connect_timeout_s=0.1)
            exchange = await pool.send(post())
            with pytest.raises(Timeout, match="all 1 connections busy") as caught:
                await pool.send(post())
            assert (caught.value.phase, caught.value.sent) == ("pool", False)
            exchange.cancel()
            assert (pool.open, pool.waiting) == (0, 0)

    run(main())


def test_draining_waits_for_the_exchanges_in_flight(run: Any) -> None:
    async def main() -> None:
        async with Server(half) as server:
            pool = pool_of(server)
            exchange = await pool.send(post())
            draining = asyncio.create_task(pool.drain(5))
            await asyncio.sleep(0.01)
            assert not draining.done()
            await server.peers[0].write(b"67890")
            assert await exchange.read_all(10) == b"1234567890"
            await draining
            assert pool.open == 0

    run(main())


def test_a_finished_exchange_is_freed_without_the_collector(run: Any) -> None:
    async def main() -> None:
        async with Server(replies(OK)) as server:
            pool = pool_of(server)
            await body_of(pool)
            gc.collect()
            gc.disable()
            try:
                for _ in range(50):
                    await body_of(pool)
                kept = [o for o in gc.get_objects() if type(o).__name__ == "Exchange"]
            finally:
                gc.enable()
            assert len(kept) <= 1
            pool.close()

    run(main())
