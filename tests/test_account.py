"""The plain account of an answer, read by compiled code: as the metering room reads it."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost._fast.desk import plain_account
from bifrost.metering.usage import MAX_COUNT, from_message

COUNTS = (
    "input_tokens", "output_tokens", "cache_read_input_tokens", "cache_creation_input_tokens",
)  # fmt: skip
WHOLE = {
    "input_tokens": 412,
    "cache_creation_input_tokens": 30,
    "cache_read_input_tokens": 96,
    "cache_creation": {"ephemeral_5m_input_tokens": 10, "ephemeral_1h_input_tokens": 20},
    "output_tokens": 120,
    "output_tokens_details": {"thinking_tokens": 50},
    "server_tool_use": {"web_search_requests": 2, "web_fetch_requests": 0},
    "service_tier": "standard",
    "inference_geo": "us",
    "speed": None,
    "iterations": None,
}
quick = settings(max_examples=1500, deadline=None, derandomize=True, database=None)

count = st.integers(0, 2000) | st.integers(MAX_COUNT - 2, MAX_COUNT + 2)
odd = st.none() | st.booleans() | st.floats(-3, 3) | st.text(max_size=4) | st.integers(-2, -1)
number = st.one_of(count, count, count, count, odd)
text = st.sampled_from(["standard", "priority", "", "us", 'a"b', "\u00fc", "\x01"]) | odd
value: st.SearchStrategy[Any] = st.one_of(number, text, st.just([]), st.just({}), st.just([1]))
members = {
    **dict.fromkeys(COUNTS, number),
    **dict.fromkeys(("service_tier", "speed", "inference_geo"), text),
    "cache_creation": st.dictionaries(
        st.sampled_from(["ephemeral_5m_input_tokens", "ephemeral_1h_input_tokens", "x"]), number
    )
    | odd,
    "output_tokens_details": st.dictionaries(st.sampled_from(["thinking_tokens", "x"]), number),
    "server_tool_use": st.dictionaries(st.sampled_from(["web_search_requests", "y"]), number),
    "iterations": st.sampled_from([None, [], [{"input_tokens": 3}], {}]),
    "later": value,
}
usages = st.fixed_dictionaries({}, optional=members)


def same(raw: bytes) -> bool:
    """Whether it is plain; if so it must be what the metering room makes of it."""
    found = plain_account(raw)
    if found is None:
        return False
    buckets, searches, said = found
    usage = from_message(raw, None)
    assert usage.source == "reported" and usage.iterations == () and usage.served_model is None
    assert buckets == [
        usage.in_fresh, usage.in_cache_read, usage.in_cache_w5m, usage.in_cache_w1h,
        usage.out_text, usage.out_think,
    ]  # fmt: skip
    assert usage.in_tool == 0
    assert (searches, said) == (usage.web_searches, (usage.tier, usage.speed, usage.geo))
    return True


@quick
@given(usages, st.sampled_from([(",", ":"), (", ", ": "), (",\n  ", " : ")]))
def test_a_plain_account_is_what_the_metering_room_reads(
    usage: dict[str, Any], spaces: tuple[str, str]
) -> None:
    same(json.dumps(usage, separators=spaces, ensure_ascii=False).encode())


@quick
@given(st.data())
def test_bytes_that_are_wrong_somewhere(data: st.DataObject) -> None:
    raw = bytearray(json.dumps(WHOLE).encode())
    for _ in range(data.draw(st.integers(1, 3))):
        at = data.draw(st.integers(0, len(raw) - 1))
        cut = data.draw(st.integers(0, 2))
        raw[at : at + cut] = data.draw(
            st.sampled_from([b"", b"1", b"{", b"}", b",", b'"', b"e", b"\xff"])
        )
    same(bytes(raw))


def test_what_a_provider_says_today_is_plain() -> None:
    assert same(json.dumps(WHOLE).encode())
    assert same(b'{"input_tokens":1,"output_tokens":0}')


@pytest.mark.parametrize(
    "raw",
    [
        b"", b"null", b"[]", b"{", b"{}", b'{"input_tokens":1}', b'{"output_tokens":1}',
        b'{"input_tokens":1,"output_tokens":2}x', b'{"input_tokens":01,"output_tokens":2}',
        b'{"input_tokens":1,"input_tokens":9,"output_tokens":2}',
        b'{"input_tokens":null,"input_tokens":9,"output_tokens":2}',
        b'{"input_tokens":9,"input_tokens":null,"output_tokens":2}',
        b'{"input_tokens":1.0,"output_tokens":2}', b'{"input_tokens":1e3,"output_tokens":2}',
        b'{"input_tokens":1,"output_tokens":2,"iterations":[{"input_tokens":1}]}',
        b'{"input_tokens":1,"output_tokens":2,"service_tier":""}',
        b'{"input_t\\u006fkens":1,"output_tokens":2}',
        b'{"input_tokens":1099511627777,"output_tokens":2}',
        b'{"input_tokens":99999999999999999999999,"output_tokens":2}',
    ],
)  # fmt: skip
def test_what_is_not_plain_is_left_to_it(raw: bytes) -> None:
    assert plain_account(raw) is None
