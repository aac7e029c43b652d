from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost.metering.usage import (
    MAX_COUNT,
    Usage,
    from_message,
    from_stream,
    output_estimate,
)

COUNTS = (
    "in_fresh in_cache_read in_cache_w5m in_cache_w1h in_tool out_text out_think "
    "web_searches images"
).split()


def start(usage: Any, model: Any = "claude-sonnet-4-5-20250929") -> bytes:
    message = {
        "id": "msg_01",
        "type": "message",
        "role": "assistant",
        "model": model,
        "content": [],
        "stop_reason": None,
        "usage": usage,
    }
    return json.dumps({"type": "message_start", "message": message}).encode()


def delta(usage: Any) -> bytes:
    event = {"type": "message_delta", "delta": {"stop_reason": "end_turn"}, "usage": usage}
    return json.dumps(event).encode()


def streamed(opening: Any, closing: Any, **more: Any) -> Usage:
    given = {"output_bytes": 0, "stopped": True, "input_estimate": 777} | more
    return from_stream(start(opening), delta(closing), **given)


OPENING = {
    "input_tokens": 412,
    "cache_creation_input_tokens": 1024,
    "cache_read_input_tokens": 12288,
    "cache_creation": {"ephemeral_5m_input_tokens": 1000, "ephemeral_1h_input_tokens": 24},
    "output_tokens": 1,
    "service_tier": "standard",
    "inference_geo": "us",
    "speed": "fast",
}


def test_a_message_is_read_into_disjoint_buckets() -> None:
    raw = OPENING | {
        "output_tokens": 287,
        "output_tokens_details": {"thinking_tokens": 87},
        "server_tool_use": {"web_search_requests": 3, "web_fetch_requests": 1},
    }
    assert from_message(json.dumps(raw).encode(), "claude-x") == Usage(
        in_fresh=412,
        in_cache_read=12288,
        in_cache_w5m=1000,
        in_cache_w1h=24,
        out_text=200,
        out_think=87,
        web_searches=3,
        tier="standard",
        speed="fast",
        geo="us",
        served_model="claude-x",
        source="reported",
    )


def test_totals_count_every_bucket_once() -> None:
    usage = Usage(
        in_fresh=1,
        in_cache_read=20,
        in_cache_w5m=300,
        in_cache_w1h=4000,
        in_tool=50_000,
        out_text=6,
        out_think=70,
    )
    assert (usage.input_tokens, usage.output_tokens) == (54_321, 76)


def test_a_delta_overwrites_and_what_it_omits_stays() -> None:
    usage = streamed(OPENING, {"output_tokens": 287})
    assert (usage.in_fresh, usage.in_cache_read) == (412, 12288)
    assert (usage.in_cache_w5m, usage.in_cache_w1h) == (1000, 24)
    assert (usage.tier, usage.speed, usage.geo) == ("standard", "fast", "us")
    assert (usage.out_text, usage.source) == (287, "reported")
    assert usage.served_model == "claude-sonnet-4-5-20250929"


def test_a_delta_that_repeats_everything_is_not_added() -> None:
    once = streamed(OPENING, {"output_tokens": 287})
    again = {
        "input_tokens": 412,
        "cache_creation_input_tokens": 1024,
        "cache_read_input_tokens": 12288,
        "output_tokens": 287,
    }
    assert streamed(OPENING, again) == once


def test_null_in_a_delta_keeps_the_start() -> None:
    closing = {"input_tokens": None, "cache_read_input_tokens": None, "output_tokens": 5}
    usage = streamed(OPENING, closing)
    assert (usage.in_fresh, usage.in_cache_read, usage.out_text) == (412, 12288, 5)
    assert usage.source == "reported"


def test_a_delta_may_lower_a_number() -> None:
    usage = streamed(OPENING, {"input_tokens": 400, "cache_creation_input_tokens": 20})
    assert (usage.in_fresh, usage.in_cache_w5m, usage.in_cache_w1h) == (400, 0, 20)


def test_more_cache_writes_in_the_delta_than_the_split_knew_are_5m() -> None:
    usage = streamed(OPENING, {"cache_creation_input_tokens": 1524, "output_tokens": 5})
    assert (usage.in_cache_w5m, usage.in_cache_w1h) == (1500, 24)


def test_a_split_in_the_delta_replaces_the_first() -> None:
    split = {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 2048}
    usage = streamed(OPENING, {"cache_creation": split, "output_tokens": 5})
    assert (usage.in_cache_w5m, usage.in_cache_w1h) == (0, 2048)


def test_cache_writes_without_a_split_are_5m() -> None:
    usage = from_message(
        b'{"input_tokens":1,"cache_creation_input_tokens":9,"output_tokens":2}', ""
    )
    assert (usage.in_cache_w5m, usage.in_cache_w1h) == (9, 0)


def test_the_delta_alone_can_carry_the_searches() -> None:
    usage = streamed(OPENING, {"output_tokens": 5, "server_tool_use": {"web_search_requests": 2}})
    assert usage.web_searches == 2


@pytest.mark.parametrize("closing", [None, delta({"output_tokens": 3})])
def test_a_cut_stream_is_billed_for_what_flowed(closing: bytes | None) -> None:
    usage = from_stream(
        start(OPENING), closing, output_bytes=3600, stopped=False, input_estimate=777
    )
    assert (usage.in_fresh, usage.in_cache_read) == (412, 12288)
    assert (usage.out_text, usage.source) == (1000, "partial")


def test_a_cut_stream_never_costs_less_than_was_reported() -> None:
    usage = streamed(OPENING, {"output_tokens": 5000}, stopped=False, output_bytes=36)
    assert (usage.out_text, usage.source) == (5000, "partial")


def test_thinking_counts_towards_what_flowed() -> None:
    closing = {"output_tokens": 100, "output_tokens_details": {"thinking_tokens": 90}}
    usage = streamed(OPENING, closing, stopped=False, output_bytes=3600)
    assert (usage.out_text, usage.out_think) == (910, 90)


def test_a_stream_that_never_started_is_estimated() -> None:
    usage = from_stream(None, None, output_bytes=10, stopped=False, input_estimate=777)
    assert usage == Usage(in_fresh=777, out_text=3, source="estimated")


def test_a_host_that_opens_with_zeros_is_estimated_when_cut() -> None:
    opening = {"input_tokens": 0, "output_tokens": 0}
    usage = from_stream(start(opening), None, output_bytes=0, stopped=False, input_estimate=777)
    assert (usage.in_fresh, usage.source) == (777, "estimated")
    assert streamed(opening, {"input_tokens": 50, "output_tokens": 2}).in_fresh == 50


def test_bytes_become_tokens_in_whole_numbers_rounded_up() -> None:
    assert [output_estimate(n) for n in (0, 1, 3, 4, 36, 37, 3600)] == [0, 1, 1, 2, 10, 11, 1000]
    assert output_estimate(-5) == 0
    assert output_estimate(10**20) == -(-(10**21) // 36)


ITERATIONS = [
    {
        "type": "compaction",
        "input_tokens": 180_000,
        "output_tokens": 3_500,
        "cache_creation_input_tokens": 0,
        "cache_read_input_tokens": 0,
    },
    {
        "type": "message",
        "input_tokens": 412,
        "output_tokens": 287,
        "cache_creation_input_tokens": 1024,
        "cache_read_input_tokens": 12288,
        "cache_creation": {"ephemeral_5m_input_tokens": 0, "ephemeral_1h_input_tokens": 1024},
    },
]


def test_iterations_carry_the_compaction_the_top_level_lacks() -> None:
    usage = streamed(OPENING, {"output_tokens": 287, "iterations": ITERATIONS})
    assert [one.kind for one in usage.iterations] == ["compaction", "message"]
    assert sum(one.input_tokens for one in usage.iterations) == 180_000 + 412 + 1024 + 12288
    assert usage.iterations[1].in_cache_w1h == 1024
    assert usage.source == "reported"


def test_a_fallback_names_the_model_that_served() -> None:
    hops = [
        {"type": "message", "model": "claude-opus-5-5", "input_tokens": 10, "output_tokens": 0},
        {"type": "fallback_message", "model": "claude-opus-5", "input_tokens": 10,
         "output_tokens": 7},
    ]  # fmt: skip
    raw = {"input_tokens": 10, "output_tokens": 7, "iterations": hops}
    usage = from_message(json.dumps(raw).encode(), "claude-opus-5-5")
    assert usage.served_model == "claude-opus-5"
    assert [one.model for one in usage.iterations] == ["claude-opus-5-5", "claude-opus-5"]


def test_an_advisor_comes_on_top_of_the_top_level() -> None:
    advisor = {
        "type": "advisor_message",
        "model": "claude-opus-5-5",
        "input_tokens": 9_000,
        "output_tokens": 400,
    }
    raw = {"input_tokens": 10, "output_tokens": 7, "iterations": [advisor]}
    usage = from_message(json.dumps(raw).encode(), "claude-haiku-5-5")
    assert [(one.kind, one.input_tokens) for one in usage.iterations] == [
        ("message", 10),
        ("advisor_message", 9_000),
    ]
    assert usage.served_model == "claude-haiku-5-5"


def test_what_iterations_do_not_account_for_is_billed_as_well() -> None:
    opening = OPENING | {"iterations": [dict(ITERATIONS[1], output_tokens=1)]}
    usage = from_stream(start(opening), None, output_bytes=720, stopped=False, input_estimate=0)
    assert sum(one.output_tokens for one in usage.iterations) == 200
    assert sum(one.input_tokens for one in usage.iterations) == 412 + 1024 + 12288
    assert usage.source == "partial"


def test_an_empty_list_of_iterations_means_the_top_level() -> None:
    assert streamed(OPENING, {"output_tokens": 2, "iterations": []}).iterations == ()


def test_what_the_answer_left_open_is_taken_from_the_request() -> None:
    usage = Usage(in_fresh=1, speed="standard").assuming(tier="auto", speed="fast", geo="us")
    assert (usage.tier, usage.speed, usage.geo) == ("auto", "standard", "us")


def test_whole_floats_are_counts_and_the_rest_is_estimated() -> None:
    usage = from_message(b'{"input_tokens":12.0,"output_tokens":34.0}', "m")
    assert (usage.in_fresh, usage.out_text, usage.source) == (12, 34, "reported")
    assert type(usage.in_fresh) is int
    usage = from_message(b'{"input_tokens":12.5,"output_tokens":3}', "m", input_estimate=40)
    assert (usage.in_fresh, usage.out_text, usage.source) == (40, 3, "estimated")
    usage = from_message(b'{"input_tokens":12,"output_tokens":-3}', "m", output_bytes=36)
    assert (usage.in_fresh, usage.out_text, usage.source) == (12, 10, "partial")


def test_what_a_translator_guessed_is_not_called_reported() -> None:
    """Hosts of other dialects may count nothing: the guess stands in the usage, and says so."""
    guess = b'{"input_tokens":12,"output_tokens":3,"estimated":["input_tokens","output_tokens"]}'
    half = b'{"input_tokens":12,"output_tokens":3,"estimated":["output_tokens"]}'
    counted = b'{"input_tokens":20,"output_tokens":4}'
    assert from_message(guess, "m").source == "estimated"
    assert from_message(half, "m").source == "partial"
    start = b'{"message":{"model":"m","usage":%b}}' % guess
    for told, source in ((guess, "estimated"), (half, "partial"), (counted, "reported")):
        delta = b'{"usage":%b}' % told
        usage = from_stream(start, delta, output_bytes=9, stopped=True, input_estimate=5)
        assert usage.source == source
    cut = from_stream(start, None, output_bytes=9, stopped=False, input_estimate=5)
    assert (cut.in_fresh, cut.source) == (12, "estimated")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b"{",
        b'"text"',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"input_tokens":' + b"9" * 400 + b"}",
        b'{"input_tokens":1e400}',
        b'{"input_tokens":true,"cache_creation":7,"iterations":{"a":1},"service_tier":5}',
        b'{"iterations":[1,2],"server_tool_use":[],"output_tokens_details":"x"}',
        b'{"input_tokens":"12"}',
    ],
)
def test_garbage_never_raises_and_is_marked(raw: bytes) -> None:
    usage = from_message(raw, None, input_estimate=40, output_bytes=36)
    assert (usage.in_fresh, usage.out_text) == (40, 10)
    assert usage.source == "estimated"
    cut = from_stream(raw, raw, output_bytes=36, stopped=True, input_estimate=40)
    assert (cut.in_fresh, cut.out_text, cut.source) == (40, 10, "estimated")


def test_a_damaged_field_does_not_spoil_the_others() -> None:
    opening = OPENING | {"service_tier": 7, "cache_creation": "none"}
    usage = streamed(opening, {"output_tokens": 5})
    assert (usage.in_fresh, usage.in_cache_read, usage.in_cache_w5m) == (412, 12288, 1024)
    assert (usage.tier, usage.geo, usage.source) == (None, "us", "partial")


def test_thinking_cannot_exceed_the_output() -> None:
    raw = b'{"input_tokens":1,"output_tokens":5,"output_tokens_details":{"thinking_tokens":50}}'
    usage = from_message(raw, None)
    assert (usage.out_text, usage.out_think) == (0, 5)


anything = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-5, MAX_COUNT + 5)
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner),
    max_leaves=5,
)
fields = st.dictionaries(
    st.sampled_from(
        [
            *("input_tokens", "output_tokens", "cache_creation", "cache_read_input_tokens"),
            *("cache_creation_input_tokens", "iterations", "server_tool_use", "speed"),
            *("output_tokens_details", "service_tier", "inference_geo"),
        ]
    ),
    anything,
)


@settings(max_examples=300, derandomize=True, deadline=None)
@given(fields, fields, st.integers(0, 10**6), st.booleans(), st.integers(0, 10**6))
def test_whatever_a_host_sends_comes_out_as_counts(
    opening: Any, closing: Any, output_bytes: int, stopped: bool, estimate: int
) -> None:
    usages = [
        from_message(json.dumps(opening).encode(), None, input_estimate=estimate),
        from_stream(
            start(opening),
            delta(closing),
            output_bytes=output_bytes,
            stopped=stopped,
            input_estimate=estimate,
        ),
    ]
    for usage in usages:
        for one in (usage, *usage.iterations):
            for name in COUNTS:
                value = getattr(one, name, 0)
                assert type(value) is int and value >= 0
    if not stopped:
        assert usages[1].output_tokens >= output_estimate(output_bytes)
        assert usages[1].source != "reported"


counts = st.integers(0, 10**6)


@settings(max_examples=200, derandomize=True, deadline=None)
@given(st.lists(st.none() | counts, min_size=4, max_size=4), st.tuples(counts, counts, counts))
def test_a_stream_equals_the_message_its_last_numbers_describe(
    last: list[int | None], first: tuple[int, int, int]
) -> None:
    names = (
        "input_tokens", "cache_read_input_tokens", "cache_creation_input_tokens", "output_tokens",
    )  # fmt: skip
    opening = dict(zip(names, (*first, 1), strict=True))
    closing = dict(zip(names, last, strict=True))
    merged = opening | {name: value for name, value in closing.items() if value is not None}
    whole = from_message(json.dumps(merged).encode(), "m")
    stream = from_stream(
        start(opening, "m"), delta(closing), output_bytes=0, stopped=True, input_estimate=0
    )
    assert stream == whole
