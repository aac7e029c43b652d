"""Errands: requests to token endpoints over real connections, by TLS and through proxies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bifrost.errors import UpstreamError
from bifrost.providers.asking import Errand
from bifrost.upstream.errands import Errands
from bifrost.upstream.pool import NetworkOptions, Upstreams
from tests.authority import certify
from tests.loopback import Peer, Server, on_both_loops

OK = b"HTTP/1.1 200 OK\r\nX-Name: a\r\ncontent-length: 2\r\n\r\n{}"


def keeping(seen: list[bytes], answer: bytes = OK) -> Any:
    async def handle(peer: Peer) -> None:
        seen.append(await peer.request())
        await peer.write(answer)

    return handle


async def sent(errand: Errand, **network: Any) -> tuple[int, dict[str, str], bytes]:
    upstreams = Upstreams()
    try:
        return await Errands(upstreams, NetworkOptions(**network)).send(errand)
    finally:
        await upstreams.close()


@on_both_loops
def test_what_is_sent_and_what_comes_back(run: Any) -> None:
    async def main() -> None:
        seen: list[bytes] = []
        async with Server(keeping(seen)) as server:
            base = f"http://127.0.0.1:{server.port}"
            posted = Errand(f"{base}/a?b=c%20d", "POST", {"x-one": "1"}, b"body")
            assert await sent(posted) == (200, {"x-name": "a", "content-length": "2"}, b"{}")
            await sent(Errand(base))
        lines = seen[0].split(b"\r\n")
        assert lines[0] == b"POST /a?b=c%20d HTTP/1.1"
        assert f"host: 127.0.0.1:{server.port}".encode() in lines
        assert b"x-one: 1" in lines and b"content-length: 4" in lines and lines[-1] == b"body"
        assert seen[1].startswith(b"GET / HTTP/1.1\r\n") and b"content-length" not in seen[1]

    run(main())


@on_both_loops
def test_authorities_are_those_of_the_provider(run: Any, tmp_path: Path) -> None:
    ca_file, context = certify(tmp_path)

    async def main() -> None:
        seen: list[bytes] = []
        async with Server(keeping(seen), tls=context) as server:
            errand = Errand(f"https://localhost:{server.port}/token")
            assert (await sent(errand, ca_file=ca_file))[0] == 200
            with pytest.raises(UpstreamError, match="certificate that does not verify"):
                await sent(errand)

    run(main())


@on_both_loops
def test_a_proxy_is_taken_but_never_to_the_machine_itself(run: Any) -> None:
    async def main() -> None:
        proxied: list[bytes] = []
        direct: list[bytes] = []
        async with Server(keeping(proxied)) as proxy, Server(keeping(direct)) as server:
            via = f"http://127.0.0.1:{proxy.port}"
            url = f"http://127.0.0.1:{server.port}/token"
            assert (await sent(Errand(url), proxy=via))[0] == 200
            assert len(proxied) == 1 and proxied[0].startswith(f"GET {url} HTTP/1.1".encode())
            assert (await sent(Errand(url, near=True), proxy=via))[0] == 200
            assert len(direct) == 1

    run(main())


@on_both_loops
def test_addresses_and_answers_that_are_none(run: Any) -> None:
    async def main() -> None:
        for url in ("ftp://h.test", "https://h.test/a b", "https://h.test/é", "//x", "nothing"):
            with pytest.raises(UpstreamError, match="address"):
                await sent(Errand(url))
        with pytest.raises(UpstreamError, match="Connection refused"):
            await sent(Errand("http://127.0.0.1:9/"))
        large = b"HTTP/1.1 200 OK\r\ncontent-length: 2000000\r\n\r\n" + b"x" * 2_000_000
        async with Server(keeping([], large)) as server:
            with pytest.raises(UpstreamError):
                await sent(Errand(f"http://127.0.0.1:{server.port}/"))

    run(main())


def test_secrets_are_not_shown() -> None:
    errand = Errand("https://h.test/p?token=hunter2", "POST", {"a": "hunter2"}, b"hunter2")
    assert repr(errand) == "Errand(POST https://h.test/p)"
