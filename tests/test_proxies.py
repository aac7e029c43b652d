"""Who a client is, behind proxies that are trusted or not, by either listener."""

from __future__ import annotations

import json
import socket
from collections.abc import Callable, Iterator
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.proxies import MOST_HOPS, Proxies, network, plain
from tests.administration import Admin
from tests.commands import until
from tests.running import Process, RunningGateway, RunningMock, configuration
from tests.sockets import Wire, hot

LISTENERS = ["native", "asgi"]


def xff(*lines: str) -> list[tuple[bytes, bytes]]:
    return [(b"x-forwarded-for", line.encode("latin-1")) for line in lines]


TRUSTED = Proxies(["127.0.0.1", "10.0.0.0/8", "fd00::/8", "unix"])
CASES: dict[str, tuple[str | None, list[tuple[bytes, bytes]], str | None]] = {
    "nobody trusted speaks": ("8.8.8.8", xff("1.1.1.1"), "8.8.8.8"),
    "no header": ("127.0.0.1", [], "127.0.0.1"),
    "one hop": ("127.0.0.1", xff("1.1.1.1"), "1.1.1.1"),
    "what the client claims is to the left": ("127.0.0.1", xff("6.6.6.6, 1.1.1.1"), "1.1.1.1"),
    "trusted hops are passed": ("127.0.0.1", xff("6.6.6.6, 1.1.1.1, 10.1.2.3"), "1.1.1.1"),
    "several lines are one list": ("127.0.0.1", xff("6.6.6.6", "1.1.1.1", "10.1.2.3"), "1.1.1.1"),
    "all trusted": ("127.0.0.1", xff("10.0.0.9, 10.0.0.8"), "10.0.0.9"),
    "empty elements": ("127.0.0.1", xff(" , 1.1.1.1 ,, "), "1.1.1.1"),
    "junk is not passed": ("127.0.0.1", xff("1.1.1.1, nonsense, 10.0.0.8"), "10.0.0.8"),
    "only junk": ("127.0.0.1", xff("\xff\x80 <script>"), "127.0.0.1"),
    "unknown": ("127.0.0.1", xff("1.1.1.1, unknown"), "127.0.0.1"),
    "a port": ("127.0.0.1", xff("1.1.1.1:4711"), "1.1.1.1"),
    "no port": ("127.0.0.1", xff("1.1.1.1:"), "127.0.0.1"),
    "too long a port": ("127.0.0.1", xff("1.1.1.1:123456"), "127.0.0.1"),
    "version 6": ("127.0.0.1", xff("2001:DB8::1"), "2001:db8::1"),
    "version 6 with a port": ("127.0.0.1", xff("[2001:db8::1]:80"), "2001:db8::1"),
    "version 6 in brackets": ("127.0.0.1", xff("[2001:db8::1]"), "2001:db8::1"),
    "an open bracket": ("127.0.0.1", xff("[2001:db8::1"), "127.0.0.1"),
    "junk after brackets": ("127.0.0.1", xff("[2001:db8::1]x"), "127.0.0.1"),
    "a zone is dropped": ("127.0.0.1", xff("fe80::1%<eth0>"), "fe80::1"),
    "wrapped version 4": ("127.0.0.1", xff("::ffff:1.1.1.1"), "1.1.1.1"),
    "a wrapped peer": ("::ffff:127.0.0.1", xff("1.1.1.1"), "1.1.1.1"),
    "a wrapped hop": ("127.0.0.1", xff("1.1.1.1, ::ffff:10.0.0.8"), "1.1.1.1"),
    "the unix socket": (None, xff("1.1.1.1"), "1.1.1.1"),
    "the unix socket alone": (None, [], None),
    "any case": ("127.0.0.1", [(b"X-Forwarded-FOR", b"1.1.1.1")], "1.1.1.1"),
    "the other header": ("127.0.0.1", [(b"forwarded", b"for=1.1.1.1")], "127.0.0.1"),
}


@pytest.mark.parametrize("name", CASES)
def test_the_first_hop_from_the_right_that_is_not_trusted(name: str) -> None:
    peer, headers, client = CASES[name]
    assert TRUSTED.client(peer, headers) == client


FORWARDED = {
    "for=1.1.1.1": "1.1.1.1",
    "For = 1.1.1.1 ; proto=https": "1.1.1.1",
    'proto=https;for="[2001:db8::1]:80";by=10.0.0.1': "2001:db8::1",
    'for="\\1.1.1.1"': "1.1.1.1",
    "for=6.6.6.6, for=1.1.1.1, for=10.0.0.8": "1.1.1.1",
    'for=1.1.1.1;host="a,for=6.6.6.6", for=10.0.0.8': "1.1.1.1",
    'for=6.6.6.6;host="a;for=7.7.7.7", by=x': "127.0.0.1",
    "for=unknown": "127.0.0.1",
    "for=_secret": "127.0.0.1",
    "by=10.0.0.1": "127.0.0.1",
    "for=1.1.1.1;for=6.6.6.6": "127.0.0.1",
    'for="1.1.1.1': "127.0.0.1",
    'for=6.6.6.6;x=", for=1.1.1.1': "1.1.1.1",
    'for=6.6.6.6;x=", for="[2001:db8::1]"': "2001:db8::1",
    'for=6.6.6.6;x="\\", for="[2001:db8::1]:9"': "2001:db8::1",
    "for=1.1.1.1, for=" + "0" * 600: "127.0.0.1",
    "": "127.0.0.1",
}


@pytest.mark.parametrize("value", FORWARDED)
def test_the_header_of_rfc_7239_where_it_is_configured(value: str) -> None:
    proxies = Proxies(["127.0.0.1", "10.0.0.0/8"], "forwarded")
    headers = [(b"x-forwarded-for", b"6.6.6.6"), (b"forwarded", value.encode())]
    assert proxies.client("127.0.0.1", headers) == FORWARDED[value]


def test_without_trusted_proxies_nothing_is_looked_at() -> None:
    proxies = Proxies()
    assert not proxies.trusting
    assert proxies.client("127.0.0.1", xff("1.1.1.1")) == "127.0.0.1"
    assert proxies.client(None, xff("1.1.1.1")) is None
    assert proxies.met(("::ffff:9.9.9.9", 1)) == ("::ffff:9.9.9.9", b"9.9.9.9", False)
    assert proxies.met("") == (None, None, False)
    assert Proxies(["9.9.9.9"], record=False).met(("9.9.9.9", 1)) == ("9.9.9.9", None, False)


def test_a_peer_that_another_server_names_oddly() -> None:
    assert plain("testclient") == "testclient"
    assert plain("") == plain('"\\\n') == plain("x" * 65) == plain("é") == "unknown"


@pytest.mark.parametrize(
    "text", ["", "10.0.0.1/8", "10.0.0.0/33", "localhost", "Unix", "1.2.3", "::ffff:10.0.0.0/104"]
)
def test_what_is_no_network(text: str) -> None:
    with pytest.raises(ValueError):
        network(text)


ADDRESS = st.one_of(st.ip_addresses(v=4), st.ip_addresses(v=6)).map(str)
JUNK = st.text(st.characters(max_codepoint=255, exclude_characters=","), max_size=20)


@given(
    honest=ADDRESS.filter(lambda text: not TRUSTED.trusts(text)),
    claimed=st.lists(ADDRESS | JUNK, max_size=40),
    passed=st.lists(
        st.sampled_from(["10.0.0.8", "fd00::8", "[fd00::9]:443", "10.3.2.1:80"]), max_size=9
    ),
    cuts=st.sets(st.integers(0, 60)),
    blanks=st.sampled_from([",", ", ", " ,\t", ",,"]),
)  # fmt: skip
@example(honest="1.1.1.1", claimed=['"'], passed=[], cuts=set(), blanks=",")
def test_no_claim_changes_who_the_client_is(
    honest: str, claimed: list[str], passed: list[str], cuts: set[int], blanks: str
) -> None:
    """What is left of the first hop that our proxies did not write is the client's invention."""
    hops = [*claimed, honest, *passed]
    marks = [0, *sorted(cut for cut in cuts if 0 < cut < len(hops)), len(hops)]
    lines = [blanks.join(hops[a:b]) for a, b in zip(marks, marks[1:], strict=False)]
    assert TRUSTED.client("127.0.0.1", xff(*lines)) == plain(honest)


@given(
    peer=ADDRESS,
    value=st.binary(max_size=200) | st.text('for=";,\\1.:[] ').map(str.encode),
    header=st.sampled_from(["x-forwarded-for", "forwarded"]),
)
@example(peer="127.0.0.1", value=b'for="' + b"\\" * 99, header="forwarded")
def test_any_bytes_give_an_address(peer: str, value: bytes, header: str) -> None:
    proxies = Proxies(["0.0.0.0/0", "::/0"], header)
    found = proxies.client(peer, [(header.encode(), value)])
    assert found is not None and str(ip_address(found)) == found


def test_a_long_header_is_cheap_and_ends_somewhere() -> None:
    many = ", ".join(["10.0.0.7"] * 6_000)
    assert TRUSTED.client("127.0.0.1", xff("1.1.1.1, " + many)) == "10.0.0.7"
    shorter = ", ".join(["10.0.0.7"] * (MOST_HOPS - 1))
    assert TRUSTED.client("127.0.0.1", xff("1.1.1.1, " + shorter)) == "1.1.1.1"
    quotes = Proxies(["127.0.0.1"], "forwarded")
    for value in (b'for="' * 12_000, b'"\\' * 32_000, b"," * 64_000, b"\\" * 64_000 + b'"'):
        assert quotes.client("127.0.0.1", [(b"forwarded", value)]) == "127.0.0.1"


# -- both listeners -----------------------------------------------------------------------------

Start = Callable[..., RunningGateway]


@pytest.fixture(params=LISTENERS)
def start(mock: RunningMock, tmp_path: Path, request: pytest.FixtureRequest) -> Iterator[Start]:
    """Starts a gateway with this listener and these ``server`` settings."""
    running: list[RunningGateway] = []

    def begin(**server: Any) -> RunningGateway:
        config = configuration(mock.url) | {"server": server}
        running.append(RunningGateway(tmp_path, config, "--listener", request.param))
        return running[-1]

    yield begin
    for one in running:
        one.stop()


def clients(data_dir: Path, *requests: str) -> list[str | None]:
    """What the log says of the clients of these requests, once all are there."""
    found: dict[str, str | None] = {}

    def all_there() -> bool:
        for _, raw in Reader(data_dir).read(0, 10_000):
            event = events.decode(raw)
            if isinstance(event, events.ModelAccess):
                found[event.request] = event.client
        return found.keys() >= set(requests)

    until(all_there)
    return [found[one] for one in requests]


REFUSED = {"model": "claude-none"}  # by us, on the way that is not compiled


def test_events_name_the_client_a_trusted_proxy_speaks_for(start: Start) -> None:
    gateway = start(trusted_proxies=["127.0.0.0/8"])
    with Wire(gateway.url) as wire:  # one connection of a proxy that serves many
        wire.send(hot("plain"), hot("one", "X-Forwarded-For: 6.6.6.6, 1.1.1.1, 127.0.0.9"))
        wire.send(hot("two", "x-forwarded-for: 2001:DB8::2", stream=True))
        wire.send(hot("bad", "x-forwarded-for: \xff, \x80, ''"))
        wire.send(hot("no", "x-forwarded-for: 3.3.3.3", **REFUSED))
        statuses = [wire.answer().status for _ in range(5)]
    assert statuses[:3] == [200] * 3 and statuses[4] == 400
    assert clients(gateway.data_dir, "plain", "one", "two", "no") == [
        "127.0.0.1", "1.1.1.1", "2001:db8::2", "3.3.3.3"
    ]  # fmt: skip


def test_nobody_is_believed_until_the_configuration_says_so(start: Start) -> None:
    gateway = start()
    with Wire(gateway.url) as wire:
        wire.send(hot("before", "x-forwarded-for: 1.1.1.1"))
        wire.send(hot("refused", "x-forwarded-for: 1.1.1.1", **REFUSED))
        assert [wire.answer().status for _ in range(2)] == [200, 400]
        assert clients(gateway.data_dir, "before", "refused") == ["127.0.0.1"] * 2
        config = json.loads(gateway.config.read_text())
        config["server"] = {"trusted_proxies": ["127.0.0.1"], "forwarded_header": "forwarded"}
        gateway.config.write_text(json.dumps(config))
        number = iter(range(1_000))

        def believed() -> bool:  # on the connection that was there before
            name = f"after-{next(number)}"
            wire.send(hot(name, "x-forwarded-for: 1.1.1.1", "forwarded: for=2.2.2.2"))
            assert wire.answer().status == 200
            return clients(gateway.data_dir, name) == ["2.2.2.2"]

        until(believed)


def test_an_operator_can_have_no_addresses_at_all(start: Start) -> None:
    gateway = start(trusted_proxies=["127.0.0.1"], record_client_address=False)
    with Wire(gateway.url) as wire, Admin(gateway) as admin:
        wire.send(hot("hot", "x-forwarded-for: 1.1.1.1"))
        wire.send(hot("refused", "x-forwarded-for: 1.1.1.1", **REFUSED))
        assert [wire.answer().status for _ in range(2)] == [200, 400]
        admin.post("/governance/customers", {"name": "new"})
        assert clients(gateway.data_dir, "hot", "refused") == [None, None]

    def log() -> bytes:
        return b"".join(raw for _, raw in Reader(gateway.data_dir).read(0, 10_000))

    until(lambda: b'"actor":"admin"' in log())
    assert b"127.0.0.1" not in log() and b"1.1.1.1" not in log()


def test_changes_name_the_administrators_address_and_guessing_is_counted_by_it(
    start: Start,
) -> None:
    gateway = start(trusted_proxies=["127.0.0.1"])
    with Admin(gateway) as admin:
        made = admin("POST", "/governance/customers", {"name": "new"}, x_forwarded_for="4.4.4.4")
        assert made.status_code == 201
        for n in range(11):
            wrong = admin(
                "GET", "/governance/customers", x_forwarded_for=f"9.9.9.{n}, 5.5.5.5",
                authorization="Bearer bf-admin-wrong",
            )  # fmt: skip
        assert wrong.status_code == 429
        right = admin("GET", "/governance/customers", x_forwarded_for="5.5.5.6")
        assert right.status_code == 200

    def changes() -> list[str | None]:
        logged = [events.decode(raw) for _, raw in Reader(gateway.data_dir).read(0, 10_000)]
        return [one.client for one in logged
                if isinstance(one, events.PolicyChange) and one.name == "new"]  # fmt: skip

    until(lambda: changes() == ["4.4.4.4"])


@pytest.mark.parametrize("listener", LISTENERS)
@pytest.mark.parametrize("trusted", [[], ["127.0.0.1"], ["unix"]], ids=["none", "other", "unix"])
def test_a_unix_socket_is_trusted_only_by_its_name(
    mock: RunningMock, tmp_path: Path, listener: str, trusted: list[str]
) -> None:
    path = tmp_path / "socket"
    config = configuration(mock.url)
    config["server"] = {"trusted_proxies": trusted, "uds": str(path)}
    written = tmp_path / "bifrost.json"
    written.write_text(json.dumps(config))
    gateway = Process(
        ["serve", "--config", str(written), "--data-dir", str(tmp_path / "data"),
         "--listener", listener],
        "listens on", tmp_path / "gateway.log",
    )  # fmt: skip
    try:
        with socket.socket(socket.AF_UNIX) as wire:
            wire.connect(str(path))
            for name, more in (("hot", {}), ("refused", REFUSED)):
                wire.sendall(hot(name, "x-forwarded-for: 1.1.1.1", **more))
                wire.settimeout(30)
                assert wire.recv(65_536)
        client = "1.1.1.1" if trusted == ["unix"] else None
        assert clients(tmp_path / "data", "hot", "refused") == [client, client]
    finally:
        gateway.stop()
