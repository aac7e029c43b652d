"""Repricing: the same table gives the same cost to the nano-dollar, another one what it says."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bifrost.audit import events
from bifrost.audit.events import ModelAccess, Reconciled, Sampling
from bifrost.config.load import parse
from bifrost.embedding import Gateway
from bifrost.metering.catalogue import Catalogue
from bifrost.metering.overrides import overrides
from bifrost.metering.usage import Iteration, Usage
from bifrost.usage import reprice
from bifrost.usage.reprice import Repricer, charge, used_of
from tests.commands import Office
from tests.running import KEY, RunningGateway, RunningMock, bearer, configuration, message

SONNET, HAIKU = "claude-sonnet-4-5", "claude-haiku-4-5"
LISTED = Catalogue.load()
OWN = {
    "models": {
        "west/*": {
            "input": "0.123457", "output": "7.1", "cache_read": "0.011", "thinking": "9",
            "web_search": "0.003333333",
            "tiers": [{"above": 1000, "input": "0.3", "output": "8"}],
            "multipliers": {"service_tier": {"priority": "7/3"}, "inference_geo": {"us": "1.1"}},
            "service_tiers": {"flex": {"input": "0.1", "output": "2"}},
        },
    }
}  # fmt: skip
FAR = 1 << 62
COUNT = st.integers(0, 3_000) | st.integers(0, 2**33)
TOKENS = dict.fromkeys(
    ("in_fresh", "in_cache_read", "in_cache_w5m", "in_cache_w1h", "in_tool", "out_text",
     "out_think"),
    COUNT,
)  # fmt: skip
USAGES = st.builds(
    Usage, **TOKENS, web_searches=st.integers(0, 9),
    tier=st.sampled_from([None, "", "standard", "priority", "flex", "batch", "unheard of"]),
    speed=st.sampled_from([None, "fast", "standard", "x" * 300]),
    geo=st.sampled_from([None, "us", "eu", "not_available"]),
    served_model=st.sampled_from([None, SONNET, HAIKU, "claude-other"]),
    source=st.sampled_from(["reported", "partial", "estimated"]),
    iterations=st.lists(
        st.builds(Iteration, **TOKENS, model=st.sampled_from([None, SONNET, HAIKU, "nobody's"])),
        max_size=4,
    ).map(tuple),
)  # fmt: skip


@pytest.fixture(scope="module")
def desk(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """The core without a server, before three providers of which two do not have a type's name."""
    folder = tmp_path_factory.mktemp("desk")
    (folder / "own.json").write_text(json.dumps(OWN))
    host = {"type": "anthropic", "keys": [{"name": "k", "value": "x"}],
            "network": {"base_url": "http://127.0.0.1:9"}}  # fmt: skip
    document = {
        "providers": {"anthropic": host, "west": host, "play": host | {"type": "mock"}},
        "models": {"fast": [{"provider": "west", "model": HAIKU}]},
        "governance": {"virtual_keys": [{"name": "k", "value": KEY}]},
        "prices": {"file": "own.json"},
    }
    found = parse(document, where="test", base=folder)
    gateway = Gateway.open(found, data_dir=folder / "data", steward=False)
    yield gateway
    gateway.close()


@settings(max_examples=400, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(usage=USAGES, model=st.sampled_from([SONNET, f"west/{SONNET}", "fast", "play/any"]))
def test_what_is_recorded_gives_the_cost_to_the_nano_dollar(
    desk: Gateway, usage: Usage, model: str
) -> None:
    body = json.dumps(message(model=model)).encode()
    cost = desk.settle(desk.admit({"x-bf-vk": KEY}, body=body), usage)
    gate, lanes = desk._core.gate, desk._core.governor.lanes
    sequence, raw = gate.outbox(0, 10_000)[-1]
    gate.forget(sequence)
    event = events.decode(raw)
    assert isinstance(event, ModelAccess) and event.cost == cost
    used = used_of(event)
    if used is None:
        assert cost == 0
        return
    assert charge(event, used, lanes.catalogue) == cost
    then = desk._core.pricing.catalogue(event.prices or "")
    assert charge(event, used, then) == cost


def event(**more: Any) -> ModelAccess:
    fields: dict[str, Any] = {
        "at": 5, "request": "r", "key": "vk_1", "team": "t_1", "provider": "anthropic",
        "model": SONNET, "outcome": "ok", "in_fresh": 1000, "cost": 3_000_000,
        "prices": LISTED.digest[:16],
    }  # fmt: skip
    return ModelAccess(**fields | more)


def dearer(factor: int = 2, model: str = SONNET) -> Catalogue:
    own = {f"anthropic/{model}": {"input": str(3 * factor), "output": "15"}}
    return LISTED.under(overrides(own, "test"))


def repriced(*found: events.Event, under: Catalogue, since: int = 0) -> reprice.Repriced:
    known = {LISTED.digest[:16]: LISTED}
    repricer = Repricer(under, ("team", "model"), {"t_1": "core"}, known.get)
    repricer.take(found, since, FAR)
    return repricer.result()


def test_costs_stand_beside_what_they_would_have_been() -> None:
    found = repriced(
        event(), event(outcome="cut"), event(model=HAIKU, cost=1_000_000), event(team=None),
        event(outcome="refused", in_fresh=0, cost=0),
        event(outcome="error", in_fresh=0, cost=0, model="nobody's"),
        event(at=4), under=dearer(), since=5,
    )  # fmt: skip
    rows = {names: (sums.requests, sums.cost, sums.repriced) for names, sums in found.rows}
    assert rows == {
        ("core", SONNET): (2, 6_000_000, 12_000_000),
        ("core", HAIKU): (1, 1_000_000, 1_000_000),
        ("-", SONNET): (1, 3_000_000, 6_000_000),
        ("core", "nobody's"): (1, 0, 0),
    }
    assert (found.total.cost, found.total.repriced) == (10_000_000, 19_000_000)
    assert found.left_out == [] and found.unproven == 0


def test_what_cannot_be_repriced_is_named_and_in_no_sum() -> None:
    sampling = Sampling(None, 1000, 0, 0, 0, 0, 0, 0)
    only_here = LISTED.under(overrides({"x/y": {"input": "1", "output": "1"}}, "test"))
    repricer = Repricer(LISTED, ("team",), {}, {"here": only_here}.get)
    repricer.take(
        [
            event(prices="here", provider="x", model="y", cost=1_000_000),
            event(prices="here", source="reserved", cost=9, in_fresh=0, outcome="unsettled"),
            Reconciled(at=5, done_at=6, request="r", key="vk_1", team="t_1", provider="anthropic",
                       model=SONNET, cost=-4, actor="cli:me"),
            event(prices="here", unlisted=40),
            event(prices="here", cost=3_000_001),
            event(prices="lost"),
            event(prices="here", samplings=(sampling, sampling), cost=6_000_000),
        ],
        0, FAR,
    )  # fmt: skip
    found = repricer.result()
    assert [(one.reason, one.model, one.requests, one.cost) for one in found.left_out] == [
        (reprice.UNPRICED, "y", 1, 1_000_000),
        (reprice.RESERVED, SONNET, 1, 9),
        (reprice.RECONCILED, SONNET, 0, -4),
        (reprice.UNLISTED, SONNET, 1, 3_000_000),
        (reprice.DIFFERENT, SONNET, 1, 3_000_001),
    ]
    ((_, sums),) = found.rows
    assert (sums.requests, sums.cost, sums.repriced) == (2, 9_000_000, 9_000_000)
    assert (sums.left_out, sums.left_cost) == (4, 7_000_006)
    assert found.unproven == 1


def test_very_many_samplings_are_counted_not_listed() -> None:
    one = Iteration(in_fresh=1_000_000, model=SONNET)
    raw = events.opening(key="k", request="r", outcome="ok")[:-1] + b'","at":1'
    assert len(events.decode(raw + events.samplings([one] * 5) + b"}").samplings) == 5  # type: ignore[union-attr]
    many = events.decode(raw + events.samplings([one] * 500) + b"}")
    assert isinstance(many, ModelAccess)
    assert (many.samplings, many.unlisted) == ((), 500)


# -- with a gateway --------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def served(mock: RunningMock, tmp_path_factory: pytest.TempPathFactory) -> Office:
    """A data directory after requests of every kind, some billed before prices changed."""
    folder = tmp_path_factory.mktemp("served")
    config = configuration(mock.url)
    config["providers"]["local"] = config["providers"]["anthropic"]
    gateway = RunningGateway(folder / "gateway", config)
    office = Office(gateway.data_dir)
    own = ("prices", "set", "local/own", "--input", "1", "--output", "2")
    assert office(*own).code == 0
    try:
        with httpx.Client(base_url=gateway.url, headers=bearer(), timeout=60) as client:
            while ask(client, model="local/own") != 200:
                pass
            traffic(client)
            assert office("prices", "set", f"anthropic/{SONNET}", "--input", "30", "--output",
                          "150", "--cache-read", "3").code == 0  # fmt: skip
            while "0.03" not in ask_cost(client):
                pass
            traffic(client)
    finally:
        gateway.stop()
    return office


def ask(client: httpx.Client, usage: dict[str, Any] | None = None, **body: Any) -> int:
    headers = {"x-mock-usage": json.dumps(usage)} if usage else {}
    return client.post("/v1/messages", json=message(**body), headers=headers).status_code


def ask_cost(client: httpx.Client) -> str:
    headers = {"x-mock-usage": '{"input_tokens": 1000, "output_tokens": 0}'}
    answer = client.post("/v1/messages", json=message(), headers=headers)
    return str(answer.headers["x-bf-cost-usd"])


def traffic(client: httpx.Client) -> None:
    usage = {
        "input_tokens": 123, "output_tokens": 457, "cache_read_input_tokens": 7_001,
        "cache_creation_input_tokens": 1_013,
        "cache_creation": {"ephemeral_5m_input_tokens": 1_000, "ephemeral_1h_input_tokens": 13},
        "server_tool_use": {"web_search_requests": 2},
    }  # fmt: skip
    iterations = [
        {"type": "message", "input_tokens": 100, "output_tokens": 400},
        {"type": "message", "input_tokens": 23, "output_tokens": 57, "model": HAIKU},
    ]
    for stream in (False, True):
        for model in (SONNET, HAIKU, f"local/{SONNET}", "local/own"):
            assert ask(client, usage, model=model, stream=stream) == 200
            assert (
                ask(client, usage | {"iterations": iterations}, model=model, stream=stream) == 200
            )
    assert ask(client, model="nobody's") == 400


def test_the_same_tables_give_the_same_cost(served: Office) -> None:
    booked = served.json("usage", "--by", "model")
    tables = [one["digest"] for one in served.json("prices", "table")["tables"]]
    assert len(tables) >= 2
    for wanted in ("current", tables[-1]):
        found = served.json("usage", "--by", "model", "--reprice", wanted)
        assert found["left_out"] == [] and found["unproven_requests"] == 0
        assert found["total"]["cost_usd"] == booked["total_cost_usd"]
        assert {row["model"]: (row["requests"], row["cost_usd"]) for row in found["rows"]} == {
            row["model"]: (row["requests"], row["cost_usd"]) for row in booked["rows"]
        }
    rows = {row["model"]: row for row in found["rows"]}
    assert float(rows[SONNET]["difference_usd"]) > 0  # those from before the rise
    assert rows["own"]["difference_usd"] == "0.00"


def test_another_table_says_what_it_would_have_been(served: Office, tmp_path: Path) -> None:
    file = tmp_path / "new.json"
    free = {"input": "0", "output": "0"} | {"web_search": "0"}
    file.write_text(json.dumps({"models": {"*/claude-*": free}}))
    before = served.json("usage", "--by", "model")
    found = served.json("usage", "--by", "model", "--by", "team", "--reprice", file)
    rows = {row["model"]: row for row in found["rows"]}
    assert {rows[SONNET]["repriced_usd"], rows[HAIKU]["repriced_usd"]} == {"0.00"}
    assert rows["own"]["repriced_usd"] != "0.00" and rows["own"]["team"] == "core"
    assert served.json("usage", "--by", "model")["rows"] == before["rows"]
    text = served("usage", "--reprice", file)
    assert text.code == 0 and "Nothing was changed." in text.out


def test_models_without_a_price_there_are_named(served: Office) -> None:
    found = served.json("usage", "--reprice", "catalogue")
    (left,) = found["left_out"]
    assert (left["provider"], left["model"], left["reason"]) == ("local", "own", reprice.UNPRICED)
    rows = {row["model"]: row for row in found["rows"]}  # by model unless it is told otherwise
    row = rows["own"]
    assert row["requests"] == 0 and row["left_out"] == left["requests"] > 0
    assert rows[SONNET]["left_out"] == 0 and found["total"]["left_out"] == left["requests"]
    assert left["cost_usd"] == row["left_out_usd"] != "0.00"
    shown = served("usage", "--reprice", "catalogue")
    assert "local/own" in shown.err and reprice.UNPRICED in shown.err


@pytest.mark.parametrize(
    "arguments",
    [("--reprice", "0123456789abcdef"), ("--reprice", "nowhere.json"), ("--reprice", "./nowhere"),
     ("--reprice", "current", "--interval", "1d")],
)  # fmt: skip
def test_wrong_tables_end_with_a_sentence(served: Office, arguments: tuple[str, ...]) -> None:
    done = served("usage", *arguments)
    assert done.code != 0 and done.err.strip() and "Traceback" not in done.err
