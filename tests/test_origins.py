"""From a base URL to an answer: addresses, TLS, shared pools and the one kind of error."""

from __future__ import annotations

import asyncio
import socket
from pathlib import Path
from typing import Any

import pytest

from bifrost.errors import ConfigError, UpstreamError
from bifrost.upstream import NetworkOptions, Origin, Upstreams
from tests.authority import certify
from tests.loopback import OK, Peer, Server, on_both_loops, post, replies, until

PLAIN = NetworkOptions()


async def answer(origin: Origin, body: bytes = b"{}") -> bytes:
    return await (await origin.send(post(body))).read_all(1 << 26)


@pytest.mark.parametrize(
    ("url", "authority", "host", "prefix"),
    [
        ("https://api.example.com", "api.example.com:443", b"api.example.com", b""),
        ("http://Example.com/", "example.com:80", b"example.com", b""),
        ("https://h.test:8443/a/v1/", "h.test:8443", b"h.test:8443", b"/a/v1"),
        ("https://h.test:443", "h.test:443", b"h.test", b""),
        ("http://[::1]:8080/v1", "[::1]:8080", b"[::1]:8080", b"/v1"),
        ("https://[2001:DB8::1]", "[2001:db8::1]:443", b"[2001:db8::1]", b""),
        ("https://bücher.example", "xn--bcher-kva.example:443", b"xn--bcher-kva.example", b""),
    ],
)
def test_base_urls(url: str, authority: str, host: bytes, prefix: bytes) -> None:
    origin = Upstreams().get(url, PLAIN)
    assert (origin.authority, origin.host_header, origin.path_prefix) == (authority, host, prefix)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "api.example.com",
        "ftp://h.test",
        "https://",
        "https://user:hunter2@h.test",
        "https://h.test?a=hunter2",
        "https://h.test/v1?",
        "https://h.test#x",
        "https://h.test:99999",
        "https://h.test:0",
        "https://h.test:port",
        "https://h test",
        "https://-h.test",
        "https://h..test",
        "https://" + "h" * 64 + ".test",
        "https://[::1",
        "https://[::g]",
        "https://h.test/a b",
        "https://h.test/\x01",
        "https://h.test/é",
    ],
)
def test_base_urls_that_cannot_be_used(url: str) -> None:
    with pytest.raises(ConfigError, match="base_url") as caught:
        Upstreams().get(url, PLAIN)
    assert "hunter2" not in str(caught.value)


def test_an_unusable_ca_file_or_proxy_is_a_configuration_error(tmp_path: Path) -> None:
    (tmp_path / "empty.pem").write_text("nothing")
    for name in ("missing.pem", "empty.pem"):
        with pytest.raises(ConfigError, match=name):
            Upstreams().get("https://h.test", NetworkOptions(ca_file=str(tmp_path / name)))
    for proxy in ("socks5://u:hunter2@p.test", "p.test:3128", "http://", "http://[x"):
        with pytest.raises(ConfigError, match="proxy") as caught:
            Upstreams().get("https://h.test", NetworkOptions(proxy=proxy))
        assert "hunter2" not in str(caught.value)


@on_both_loops
def test_a_reload_keeps_the_pools_it_still_names(run: Any) -> None:
    async def main() -> None:
        async with Server(replies(OK)) as server, Server(replies(OK)) as other:
            upstreams = Upstreams()
            base = f"http://127.0.0.1:{server.port}"
            kept = upstreams.get(base, PLAIN)
            dropped = upstreams.get(f"http://127.0.0.1:{other.port}", PLAIN)
            await asyncio.gather(answer(kept), answer(dropped))
            again = upstreams.get(base + "/v1", NetworkOptions())
            await upstreams.retain([again], 1)
            await answer(again)
            await until(lambda: (server.serving, other.serving) == (1, 0))
            assert len(server.peers) == 1
            with pytest.raises(UpstreamError, match="no longer used"):
                await answer(dropped)
            await answer(upstreams.get(base, NetworkOptions(max_retries=0)))
            assert len(server.peers) == 2
            await upstreams.close()
            await until(lambda: server.serving == 0)

    run(main())


@on_both_loops
def test_tls_is_verified_against_the_authorities(run: Any, tmp_path: Path) -> None:
    ca_file, context = certify(tmp_path)

    async def main() -> None:
        async with Server(replies(OK), tls=context) as server:
            upstreams = Upstreams()
            base = f"https://localhost:{server.port}"
            trusting = upstreams.get(base, NetworkOptions(ca_file=ca_file))
            large = b"x" * 3_000_000
            assert [await answer(trusting), await answer(trusting, large)] == [b"ok", b"ok"]
            peer = server.peers[0]
            assert (len(server.peers), peer.requests) == (1, 2)
            assert peer.writer.get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"
            distrusting = upstreams.get(base, PLAIN)
            with pytest.raises(UpstreamError, match="certificate that does not verify") as caught:
                await answer(distrusting)
            assert f"The provider at localhost:{server.port} has" in str(caught.value)
            assert not caught.value.sent
            careless = upstreams.get(base, NetworkOptions(verify=False))
            assert await answer(careless) == b"ok"
            await upstreams.close()

    run(main())


@on_both_loops
def test_a_certificate_for_another_name_is_refused(run: Any, tmp_path: Path) -> None:
    ca_file, context = certify(tmp_path)

    async def main() -> None:
        async with Server(replies(OK), host="127.0.0.2", tls=context) as server:
            upstreams = Upstreams()
            base = f"https://127.0.0.2:{server.port}"
            with pytest.raises(UpstreamError, match=r"certificate.*mismatch"):
                await answer(upstreams.get(base, NetworkOptions(ca_file=ca_file)))
            await upstreams.close()

    run(main())


@on_both_loops
def test_tls_to_a_server_that_speaks_none_or_stays_silent(run: Any) -> None:
    async def gibberish(peer: Peer) -> None:
        await peer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
        await peer.ended()

    async def main() -> None:
        async with Server(gibberish) as server:
            upstreams = Upstreams()
            base = f"https://127.0.0.1:{server.port}"
            with pytest.raises(UpstreamError, match="could not agree on TLS") as caught:
                await answer(upstreams.get(base, NetworkOptions(max_retries=0)))
            assert not caught.value.sent
            await upstreams.close()
        async with Server(Peer.ended) as server:
            upstreams = Upstreams()
            silent = NetworkOptions(connect_timeout_s=0.2)
            sending = asyncio.create_task(
                answer(upstreams.get(f"https://127.0.0.1:{server.port}", silent))
            )
            with pytest.raises(UpstreamError, match=r"did not accept a connection within 0\.2 s"):
                await sending
            await until(lambda: server.serving == 0)
            await upstreams.close()

    run(main())


@on_both_loops
def test_cancelling_during_the_tls_handshake_closes_the_connection(run: Any) -> None:
    async def main() -> None:
        async with Server(Peer.ended) as server:
            upstreams = Upstreams()
            origin = upstreams.get(f"https://127.0.0.1:{server.port}", PLAIN)
            sending = asyncio.create_task(answer(origin))
            await until(lambda: server.serving == 1)
            sending.cancel()
            await asyncio.wait([sending])
            await until(lambda: server.serving == 0)
            await upstreams.close()

    run(main())


@pytest.mark.skipif(not socket.has_ipv6, reason="this machine has no IPv6")
@on_both_loops
def test_ipv6(run: Any) -> None:
    async def main() -> None:
        try:
            server = await Server(replies(OK), host="::1").__aenter__()
        except OSError:
            pytest.skip("the loopback has no IPv6 address")
        upstreams = Upstreams()
        assert await answer(upstreams.get(f"http://[::1]:{server.port}", PLAIN)) == b"ok"
        await upstreams.close()
        await server.__aexit__()

    run(main())


@on_both_loops
def test_every_failure_is_an_upstream_error_that_names_the_origin(run: Any) -> None:
    async def cut(peer: Peer) -> None:
        await peer.request()
        await peer.write(b"HTTP/1.1 200 OK\r\ncontent-length: 9\r\n\r\n12345")

    async def main() -> None:
        async with Server(cut) as server:
            upstreams = Upstreams()
            origin = upstreams.get(f"http://127.0.0.1:{server.port}", PLAIN)
            with pytest.raises(UpstreamError) as caught:
                await answer(origin)
            assert caught.value.sent
            assert str(caught.value) == (
                f"The provider at 127.0.0.1:{server.port}"
                " closed the connection in the middle of a response."
            )
        with pytest.raises(UpstreamError, match="Connection refused") as caught:
            await answer(origin)
        assert not caught.value.sent
        await upstreams.close()

    run(main())


def test_an_unknown_host_could_not_be_reached(monkeypatch: pytest.MonkeyPatch) -> None:
    async def fails(*_: object, **__: object) -> Any:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    async def main() -> None:
        monkeypatch.setattr(asyncio.get_running_loop(), "getaddrinfo", fails)
        upstreams = Upstreams()
        with pytest.raises(UpstreamError, match="Name or service not known") as caught:
            await answer(upstreams.get("http://nowhere.invalid", NetworkOptions(max_retries=0)))
        assert not caught.value.sent
        await upstreams.close()

    asyncio.run(main())
