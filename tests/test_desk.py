"""The compiled desk: credentials found and forgotten, events that say what happened."""

from __future__ import annotations

import json
import mmap
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bifrost._fast import wire
from bifrost._fast.density import OVERHEAD, PER_KIB, Density
from bifrost._fast.desk import IMAGE, Desk, LaneBase, plain_input
from bifrost._fast.gate import Gate, Plan
from bifrost._fast.keyring import (
    BULLETIN,
    GrantBase,
    Keyring,
    announce,
    announced,
    siphash,
)
from bifrost.audit import events
from bifrost.call import Call
from bifrost.metering.prices import Price
from bifrost.metering.usage import Iteration, Usage

COUNT = st.integers(0, 2**40)
WORD = st.none() | st.text(max_size=40)
BYTES = st.none() | st.binary(max_size=400).filter(lambda b: not set(b) & {0, 10, 13})


def test_siphash_is_the_published_function() -> None:
    key = bytes(range(16))  # the authors' own vectors, first and second
    assert siphash(key, b"").hex() == "a3817f04ba25a8e66df67214c7550293"
    assert siphash(key, b"\0").hex() == "da87c1d86b99af44347659119b22fc45"
    with pytest.raises(ValueError, match="16 bytes"):
        siphash(b"short", b"")


def _grant() -> GrantBase:
    return GrantBase(0)


def test_a_keyring_finds_what_it_was_given_until_the_policy_moves() -> None:
    page = mmap.mmap(-1, 8)
    ring = Keyring(page, 1000)
    grants = {b"sk-bf-%d" % number: _grant() for number in range(700)}
    for credential, grant in grants.items():
        assert ring.get(credential) is None
        ring.put(credential, grant)
    assert all(ring.get(credential) is grant for credential, grant in grants.items())
    assert ring.get(b"sk-bf-") is None
    newer = _grant()
    ring.put(b"sk-bf-5", newer)
    assert ring.get(b"sk-bf-5") is newer
    page[:8] = b"12345678"
    assert ring.get(b"sk-bf-5") is None
    assert len(ring) == 0


def test_a_full_keyring_keeps_who_comes_often() -> None:
    ring = Keyring(mmap.mmap(-1, 8), 100)
    regular = _grant()
    ring.put(b"regular", regular)
    for number in range(1000):
        ring.put(b"%d" % number, _grant())
        assert ring.get(b"%d" % number) is not None
        assert number % 9 or ring.get(b"regular") is regular
    assert len(ring) == 100
    assert ring.get(b"1") is None


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from("put get clear change".split()), st.integers(0, 40))))
def test_a_keyring_never_answers_with_anything_but_the_latest_true_grant(
    steps: list[tuple[str, int]],
) -> None:
    page = mmap.mmap(-1, BULLETIN)
    ring = Keyring(page, 16)
    true: dict[int, GrantBase] = {}
    for stamp, (step, number) in enumerate(steps, 1):
        if step == "put":
            true[number] = GrantBase(0, (number + 1, number % 3 + 100))
            ring.put(b"%d" % number, true[number])
        elif step == "clear":
            ring.clear()
            true = {}
        elif step == "change":  # of one entity: its own, or one that a third of them share
            announce(page, [number + 1 if number < 20 else number % 3 + 100], stamp, stamp)
            true = {
                one: grant
                for one, grant in true.items()
                if (one != number if number < 20 else one % 3 != number % 3)
            }
        assert ring.get(b"%d" % number) in (None, true.get(number))
        assert len(ring) <= 16
        if step == "put":
            assert ring.get(b"%d" % number) is true[number]


def test_a_change_drops_only_whom_it_concerns() -> None:
    page = mmap.mmap(-1, BULLETIN)
    ring = Keyring(page)
    for number in range(1, 501):
        ring.put(b"%d" % number, GrantBase(0, (number, 1000 + number % 5)))
    announce(page, [7], 1, 1)
    announce(page, [1003], 2, 2)
    kept = {number for number in range(1, 501) if ring.get(b"%d" % number) is not None}
    assert kept == {number for number in range(1, 501) if number != 7 and number % 5 != 3}
    ring.put(b"7", GrantBase(0, (7, 1002)))
    assert ring.get(b"7") is not None, "what is made after the change is true"
    announce(page, [0], 3, 3)  # nobody knows what changed
    assert ring.get(b"7") is None
    assert len(ring) == 0


def test_who_missed_more_than_the_bulletin_holds_forgets_everything() -> None:
    page = mmap.mmap(-1, BULLETIN)
    ring = Keyring(page)
    ring.put(b"1", GrantBase(0, (1,)))
    announce(page, range(2, 5000), 1, 1)
    assert ring.get(b"1") is None
    assert announced(page) == 1


class Host:
    """Names its keys by number."""

    def key_name(self, index: int) -> str:
        """As in the configuration."""
        return f"key-{index}"


class Lane(LaneBase):
    """A lane as the house has it, on one made-up host."""

    def __init__(self, *members: Any) -> None:
        super().__init__(*members)
        self.host = Host()


@pytest.fixture
def gate(tmp_path: Path) -> Any:
    opened = Gate(tmp_path / "state")
    yield opened
    opened.close()


@settings(
    max_examples=300, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    usage=st.none()
    | st.builds(
        Usage, in_fresh=COUNT, in_cache_read=COUNT, in_cache_w5m=COUNT, in_cache_w1h=COUNT,
        in_tool=COUNT, out_text=COUNT, out_think=COUNT, web_searches=st.integers(0, 99),
        tier=WORD, speed=WORD, geo=WORD, served_model=WORD,
        source=st.sampled_from(["reported", "partial", "estimated"]),
        iterations=st.lists(
            st.builds(
                Iteration, in_fresh=COUNT, in_cache_read=COUNT, in_cache_w5m=COUNT,
                in_cache_w1h=COUNT, in_tool=COUNT, out_text=COUNT, out_think=COUNT, model=WORD,
            ),
            max_size=3,
        ).map(tuple),
    ),
    names=st.tuples(st.text(min_size=1, max_size=30), st.text(max_size=30), WORD),
    session=BYTES, agent=BYTES, upstream=WORD, status=st.integers(0, 599), stream=st.booleans(),
    key_index=st.integers(0, 3),
)  # fmt: skip
def test_the_event_says_what_happened(
    gate: Gate,
    usage: Usage | None,
    names: tuple[str, str, str | None],
    session: bytes | None,
    agent: bytes | None,
    upstream: str | None,
    status: int,
    stream: bool,
    key_index: int,
) -> None:
    price = Price(input=3_000_000, output=15_000_000, cache_read=300_000, web_search=10_000_000)
    model, provider, user = names
    lane = Lane(
        model,
        Plan([], lambda i, now: (0, 1)),
        events.opening(key="vk_1", user=user, asked=model, provider=provider, prices="p"),
        events.members(model=model, provider_key="key-0"),
        price.ceiling(None, None, None),
        price.tariffs,
        200_000,
        Density(),
    )
    desk = Desk(gate, Keyring(mmap.mmap(-1, 8)))
    call = Call('req_"1', None)
    lines = [(b"x-bf-session-id", session), (b"user-agent", agent)]
    call.head = wire.read_head([(name, value) for name, value in lines if value is not None])
    call.scan = wire.scan(json.dumps({"model": "m", "max_tokens": 1, "stream": stream}).encode())
    call.grant = _grant()
    desk.hold(call, lane, 77, 5, 6, 0)
    note = events.decode(gate.reservations()[0][-1])
    assert (note.request, note.outcome, note.model, note.user) == (
        "req_\"1", "unsettled", model, user,
    )  # fmt: skip
    call.status, call.key_index, call.upstream_request = status, key_index, upstream
    cost = desk.settle(call, usage, "ok", lambda call, usage: _charged(price, usage))
    assert cost == (min(price.cost(usage), 2**62) if usage is not None else 0)
    sequence, raw = gate.outbox(0, 10)[-1]
    gate.forget(sequence)
    got = events.decode(raw)
    assert got.took_ns > 0
    got.took_ns = 0
    known = usage if usage is not None else Usage(source="reported")
    served = known.served_model
    expected = events.ModelAccess(
        at=call.at, request="req_\"1", key="vk_1", user=user, asked=model,
        model=(served or model), priced=model if served and served != model else None,
        provider=provider, provider_key=f"key-{key_index}",
        prices="p", outcome="ok", status=status, stream=stream, cost=cost, reserved=77,
        in_fresh=known.in_fresh, in_cache_read=known.in_cache_read,
        in_cache_w5m=known.in_cache_w5m, in_cache_w1h=known.in_cache_w1h, in_tool=known.in_tool,
        out_text=known.out_text, out_think=known.out_think, web_searches=known.web_searches,
        samplings=tuple(
            events.Sampling(*(getattr(one, name) for name in events.Sampling.__struct_fields__))
            for one in known.iterations
        ),
        tier=known.tier, speed=known.speed, geo=known.geo,
        source=known.source if usage is not None else None,
        session=_text(call.head.session, 256), agent=_text(call.head.user_agent, 120),
        upstream_request=upstream,
    )  # fmt: skip
    assert got == expected


def _charged(price: Price, usage: Usage) -> tuple[Usage, int, bytes]:
    return usage, price.cost(usage), events.samplings(usage.iterations)


def _text(raw: bytes | None, most: int) -> str | None:
    return None if raw is None else raw[:most].decode("latin-1")


def test_the_bound_of_a_plain_request() -> None:
    assert plain_input(10_240, PER_KIB, 0, 10**6) == 5_120 + OVERHEAD
    assert plain_input(10_240, 256, 2, 10**6) == 2_560 + 2 * IMAGE + OVERHEAD
    assert plain_input(10**9, PER_KIB, 0, 200_000) == 200_000


def test_prices_never_overflow() -> None:
    price = Price(input=2**40, output=2**40)
    huge = Usage(in_fresh=2**40, out_text=2**40)
    assert price.cost(huge) == 2**62
    assert price.bound(input_tokens=2**50, max_tokens=2**53) == 2**62
    assert Price(input=1, output=1).cost(huge) == (2**41 + 999) // 1000
