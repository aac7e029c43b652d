"""Own prices: store over file over catalogue, changed for new requests only, every change kept."""

from __future__ import annotations

import getpass
import json
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest

from bifrost._fast.gate import Gate
from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.audit.policy import acting
from bifrost.core import stores
from bifrost.embedding import Gateway
from bifrost.errors import ConfigError, Conflict, NotFound, Stale, StoreError
from bifrost.governance.directory import Directory
from bifrost.metering.catalogue import Catalogue, Table
from bifrost.metering.overrides import narrowness
from bifrost.metering.usage import Iteration, Usage
from bifrost.pricing import Pricing
from tests.commands import Office, bifrost, until
from tests.running import (
    BIFROST,
    KEY,
    RunningGateway,
    RunningMock,
    bearer,
    configuration,
    environment,
    message,
)

SONNET = "claude-sonnet-4-5"
LISTED = Catalogue.load()


@pytest.fixture
def opened(tmp_path: Path) -> Iterator[tuple[Directory, Gate]]:
    with stores(tmp_path / "data") as found:
        yield found


def file_of(path: Path, **models: dict[str, Any]) -> Path:
    path.write_text(json.dumps({"models": {k.replace("__", "/"): v for k, v in models.items()}}))
    return path


def usd(catalogue: Catalogue, model: str = SONNET) -> int:
    price = catalogue.price("anthropic", model)
    assert price is not None
    return price.input


def told(raw: list[bytes]) -> list[events.PriceChange]:
    found = [events.decode(one) for one in raw]
    return [event for event in found if isinstance(event, events.PriceChange)]


def logged(folder: Path) -> list[events.PriceChange]:
    return told([raw for _, raw in Reader(folder).read(0, 100_000)])


def test_store_over_file_over_catalogue(opened: tuple[Directory, Gate], tmp_path: Path) -> None:
    pricing = Pricing(opened[0].prices, opened[1])
    file = file_of(tmp_path / "p.json", **{"anthropic/*": {"input": "1", "output": "5"}})
    seen = [pricing.publish(None), pricing.publish(file)]
    pricing.put("anthropic/claude-sonnet-*", {"input": "2", "output": "5"})
    seen.append(pricing.current())
    pricing.delete("anthropic/claude-sonnet-*")
    seen.append(pricing.current())
    assert [usd(one) for one in seen] == [3_000_000, 1_000_000, 2_000_000, 1_000_000]
    origins = [one.origin("anthropic", SONNET) for one in seen]
    assert [(one.kind, one.pattern) for one in origins if one is not None] == [
        ("catalogue", f"anthropic/{SONNET}"),
        ("file", "anthropic/*"),
        ("store", "anthropic/claude-sonnet-*"),
        ("file", "anthropic/*"),
    ]
    assert seen[1].digest == seen[3].digest
    assert len({one.digest for one in seen}) == 3


def test_among_stored_prices_the_narrowest_pattern_wins(opened: tuple[Directory, Gate]) -> None:
    pricing = Pricing(opened[0].prices, opened[1])
    patterns = ["*/*", "anthropic/*", f"anthropic/{SONNET}", "anthropic/claude-*", "*/claude-[so]*"]
    catalogue = pricing.change(
        {one: {"input": str(number), "output": "1"} for number, one in enumerate(patterns)}
    )
    assert [entry.pattern for entry in pricing.entries()] == sorted(patterns, key=narrowness)
    assert usd(catalogue) == 2_000_000
    assert usd(catalogue, "claude-haiku-4-5") == 3_000_000
    found = catalogue.price("openai", "claude-sonnet-9")
    assert found is not None and found.input == 4_000_000


def test_the_store_is_not_for_whole_lists(
    opened: tuple[Directory, Gate], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bifrost.pricing.MOST", 2)
    pricing, fields = Pricing(opened[0].prices, opened[1]), {"input": "1", "output": "1"}
    pricing.change({"a/*": fields, "b/*": fields})
    with pytest.raises(Conflict, match="price file"):
        pricing.put("c/*", fields)
    pricing.change({"a/*": None, "c/*": fields})
    assert [entry.pattern for entry in pricing.entries()] == ["b/*", "c/*"]


def test_what_a_digest_meant_stays_known(opened: tuple[Directory, Gate], tmp_path: Path) -> None:
    pricing = Pricing(opened[0].prices, opened[1])
    tables = [pricing.publish(None)]
    for price in ("1", "2"):
        pricing.publish(file_of(tmp_path / "p.json", local__a={"input": price, "output": "1"}))
        pricing.put("local/*", {"input": "9", "output": price})
        tables.append(pricing.current())
    for table in tables:
        again = pricing.catalogue(table.digest[:16])
        assert again.digest == table.digest
        assert again.price("local", "b") == table.price("local", "b")
    assert [one.digest for one in pricing.tables()][-1] == tables[-1].digest
    with pytest.raises(NotFound):
        pricing.catalogue("0" * 16)
    with pytest.raises(NotFound):
        pricing.catalogue(tables[0].digest[:7])  # too few digits to be sure


def test_the_table_of_an_older_package_is_kept(tmp_path: Path) -> None:
    models = dict(LISTED.table.models)
    model = models.pop(f"anthropic/{SONNET}")
    price = msgspec.structs.replace(model.price, input=7_000_000)
    models[f"anthropic/{SONNET}"] = msgspec.structs.replace(model, price=price)
    older = Catalogue(
        Table(format=1, source="older", date="2025-01-01", input_sha256="", models=models)
    )
    with stores(tmp_path) as (directory, gate):
        state = msgspec.structs.replace(
            directory.prices.state(), digest=older.digest, package=older.package, source="older",
            date=older.date,
        )  # fmt: skip
        directory.prices.change(lambda _: state, older.listing)
        pricing = Pricing(directory.prices, gate)
        assert usd(pricing.publish(None)) == 3_000_000
        assert usd(pricing.catalogue(older.digest)) == 7_000_000
        (event,) = told([raw for _, raw in Reader(tmp_path).read(0, 10)])
        assert event.changes[0].startswith("catalogue: older (2025-01-01) -> litellm")
        assert event.digest == LISTED.digest


def test_a_change_is_recorded_or_not_made(opened: tuple[Directory, Gate], tmp_path: Path) -> None:
    directory, gate = opened
    pricing = Pricing(directory.prices, gate)
    with acting("admin", "contract of 2026"):
        entry = pricing.put("local/*", {"input": "1", "output": "2"})
        pricing.put("local/*", {"output": "2", "input": "1"})  # the same: nothing to tell
    assert (entry.actor, entry.reason) == ("admin", "contract of 2026")
    (event,) = told([raw for _, raw in Reader(tmp_path / "data").read(0, 10)])
    assert (event.actor, event.reason) == ("admin", "contract of 2026")
    assert event.digest == pricing.current().digest
    assert event.changes == ("store local/*: none -> input 1, output 2",)
    gate.close()
    with pytest.raises(StoreError, match="cannot be recorded, so it is not made"):
        pricing.put("local/*", {"input": "5", "output": "5"})
    assert pricing.get("local/*") == entry


def test_a_price_is_changed_only_as_it_was_seen(opened: tuple[Directory, Gate]) -> None:
    pricing = Pricing(opened[0].prices, opened[1])
    seen = pricing.put("local/*", {"input": "1", "output": "2"})
    pricing.put("local/*", {"input": "2", "output": "2"}, expect=seen)
    with pytest.raises(Stale):
        pricing.put("local/*", {"input": "3", "output": "2"}, expect=seen)
    with pytest.raises(Stale):
        pricing.delete("local/*", expect=seen)
    assert pricing.get("local/*").fields["input"] == "2"
    with pytest.raises(NotFound):
        pricing.delete("other/*")


@pytest.mark.parametrize(
    "pattern, fields, sentence",
    [
        ("local", {"input": "1", "output": "1"}, "<provider>/<model>"),
        ("local/" + "x" * 500, {"input": "1", "output": "1"}, "at most 400"),
        ("local/a\nb", {"input": "1", "output": "1"}, "printable"),
        ("local/*", {"input": "1"}, 'expected the field "output"'),
        ("local/*", {"input": 1.5, "output": "1"}, 'put it in quotes: "1.5"'),
        ("local/*", {"input": "-1", "output": "1"}, "cannot be negative"),
        ("local/*", {"input": "0.0000001", "output": "1"}, "at most 6 decimals"),
        ("local/*", {"input": "1", "output": "1", "inptu": "1"}, 'did you mean "input"'),
        ("local/*", [], "expected an object"),
    ],
)
def test_bad_prices_are_refused_with_the_reason(
    opened: tuple[Directory, Gate], pattern: str, fields: Any, sentence: str
) -> None:
    pricing = Pricing(opened[0].prices, opened[1])
    with pytest.raises(ConfigError, match="own prices") as told:
        pricing.put(pattern, fields)
    assert sentence in str(told.value)
    assert pricing.entries() == ()


def test_the_command_line_sets_shows_and_removes(tmp_path: Path) -> None:
    office = Office(tmp_path / "data")
    done = office(
        "prices", "set", "anthropic/claude-sonnet-*", "--input", "2.50", "--output", "12",
        "--cache-read", "0.25", "--max-output-tokens", "4096", "--reason", "our contract",
    )  # fmt: skip
    assert done.code == 0, done.err
    shown = office.json("prices", "show", f"anthropic/{SONNET}")
    card = shown["models"][f"anthropic/{SONNET}"]
    assert (card["input"], card["cache_read"], card["max_output_tokens"]) == ("2.5", "0.25", 4096)
    origin = shown["from"][f"anthropic/{SONNET}"]
    assert (origin["origin"], origin["reason"]) == ("store", "our contract")
    assert origin["actor"] == f"cli:{getpass.getuser()}"
    text = office("prices", "show", f"anthropic/{SONNET}").out
    assert "from: the store, 'anthropic/claude-sonnet-*' set by" in text
    assert "from: the catalogue (litellm" in office("prices", "show", "claude-haiku-4-5").out
    (row,) = office.json("prices", "list", "--overrides")["prices"]
    assert row["fields"] == {"input": "2.50", "output": "12", "cache_read": "0.25",
                             "max_output_tokens": 4096}  # fmt: skip
    every = {row["model"]: row["from"] for row in office.json("prices", "list")["prices"]}
    assert every[f"anthropic/{SONNET}"] == "store" and every["openai/gpt-4o"] == "catalogue"
    table = office("prices", "table", shown["digest"][:16])
    assert json.loads(table.out)["models"] == {"anthropic/claude-sonnet-*": row["fields"]}
    assert office("prices", "unset", "anthropic/claude-sonnet-*", "--reason", "over").code == 0
    assert office.json("prices", "list", "--overrides")["prices"] == []
    office.json("usage")
    assert [event.reason for event in logged(tmp_path / "data")] == ["our contract", "over"]


def test_a_printed_table_is_a_price_file_that_makes_it_again(tmp_path: Path) -> None:
    office = Office(tmp_path / "data")
    models = {"local/a*": {"input": "1", "output": "2",
                           "tiers": [{"above": 10, "input": "2", "output": "3"}]},
              "local/*": {"input": "0", "output": "0"}}  # fmt: skip
    file = tmp_path / "own.json"
    file.write_text(json.dumps({"models": models}))
    digest = office.json("prices", "set", "--from-file", file)["digest"]
    printed = tmp_path / "printed.json"
    printed.write_text(office("prices", "table", digest).out)
    assert Catalogue.load(printed).digest == digest
    assert office("prices", "set", "local/b", "--from-file", file).code == 1  # no single price
    fields = tmp_path / "fields.json"
    fields.write_text(json.dumps({"input": "1", "output": "2"}))
    assert office("prices", "set", "local/b", "--from-file", fields, "--output", "3").code == 0
    (row, *_) = office.json("prices", "list", "--overrides")["prices"]
    assert (row["pattern"], row["fields"]) == ("local/b", {"input": "1", "output": "3"})


@pytest.mark.parametrize(
    "arguments",
    [
        ("prices", "set"),
        ("prices", "set", "local/*", "--input", "1e3", "--output", "1"),
        ("prices", "unset", "local/*"),
        ("prices", "table", "0123456789abcdef"),
        ("prices", "set", "--from-file", "nowhere.json"),
    ],
)
def test_wrong_commands_end_with_a_sentence(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    office = Office(tmp_path / "data")
    assert office("prices", "set", "x/y", "--input", "1", "--output", "1").code == 0
    done = office(*arguments)
    assert done.code != 0 and done.err.strip() and "Traceback" not in done.err


def test_a_check_tells_of_targets_without_a_price(tmp_path: Path) -> None:
    config = tmp_path / "bifrost.json"
    config.write_text(json.dumps({
        "providers": {"house": {"type": "anthropic", "keys": [{"name": "k", "value": "x"}]}},
        "models": {
            "fast": [{"provider": "house", "model": "claude-haiku-4-5"}],
            "new": [{"provider": "house", "model": SONNET}, {"provider": "house"}],
            "own-*": [{"provider": "house"}],
        },
    }))  # fmt: skip
    found = bifrost("config", "check", config, "--json").json
    assert found["ok"]
    (warning,) = [one for one in found["warnings"] if "price" in one]
    assert warning.startswith("models.new[1]: ") and "house/new" in warning


# -- under way -------------------------------------------------------------------------------------


def test_a_request_is_settled_at_the_prices_it_was_admitted_under(tmp_path: Path) -> None:
    config = tmp_path / "bifrost.json"
    config.write_text(json.dumps(configuration("http://127.0.0.1:9")))
    gateway = Gateway.open(config, data_dir=tmp_path / "data", steward=False)
    new_prices = {"input": "100", "output": "200"}
    file = file_of(tmp_path / "new.json", **{"anthropic/claude-*": new_prices})
    body = json.dumps(message()).encode()
    usage = Usage(
        in_fresh=10, out_text=10,
        iterations=(Iteration(in_fresh=10, out_text=10),
                    Iteration(in_fresh=7, out_text=0, model="claude-haiku-4-5")),
    )  # fmt: skip
    try:
        old, older = (gateway.admit({"x-bf-vk": KEY}, body=body) for _ in range(2))
        subprocess.run(
            [*BIFROST, "prices", "set", "--from-file", file, "--data-dir", tmp_path / "data"],
            check=True, env=environment(), capture_output=True,
        )  # fmt: skip
        new = gateway.admit({"x-bf-vk": KEY}, body=body)
        assert new.reserved > 10 * old.reserved
        assert gateway.settle(older, Usage(in_fresh=10, out_text=10)) == 10 * 3_000 + 10 * 15_000
        assert gateway.settle(old, usage) == 10 * 3_000 + 10 * 15_000 + 7 * 1_000
        assert gateway.settle(new, usage) == 10 * 100_000 + 10 * 200_000 + 7 * 100_000
    finally:
        gateway.close()


class Stream(threading.Thread):
    """A slow stream, read until it is told to hang up."""

    def __init__(self, url: str) -> None:
        super().__init__(daemon=True)
        self.url = url
        self.begun, self.enough = threading.Event(), threading.Event()

    def run(self) -> None:
        usage = {"input_tokens": 1000, "output_tokens": 5000}
        headers = bearer() | {
            "x-mock-chunks": "600", "x-mock-chunk-interval-ms": "100", "x-request-id": "slow",
            "x-mock-usage": json.dumps(usage),
        }  # fmt: skip
        with httpx.stream(
            "POST", f"{self.url}/v1/messages", json=message(stream=True), headers=headers,
            timeout=60,
        ) as answer:  # fmt: skip
            for piece in answer.iter_bytes():
                if b"content_block_delta" in piece:
                    self.begun.set()
                if self.enough.is_set():
                    return


def costs(url: str) -> set[str]:
    """What fresh connections pay for the same small request, so that every worker answers some."""
    usage = json.dumps({"input_tokens": 1000, "output_tokens": 100})
    answers = [
        httpx.post(f"{url}/v1/messages", json=message(), headers=bearer() | {"x-mock-usage": usage})
        for _ in range(8)
    ]
    return {answer.headers.get("x-bf-cost-usd", answer.text) for answer in answers}


@pytest.fixture
def gateway(mock: RunningMock, tmp_path: Path) -> Iterator[RunningGateway]:
    config = configuration(mock.url) | {"prices": {"file": "own.json"}}
    (tmp_path / "gateway").mkdir()
    file_of(tmp_path / "gateway" / "own.json")
    running = RunningGateway(tmp_path / "gateway", config, "--workers", "2")
    yield running
    running.stop()


def event_of(folder: Path, request: str) -> events.ModelAccess | None:
    for _, raw in Reader(folder).read(0, 100_000):
        event = events.decode(raw)
        if isinstance(event, events.ModelAccess) and event.request == request:
            return event
    return None


def test_a_stream_keeps_its_price_while_every_worker_takes_up_the_new(
    gateway: RunningGateway,
) -> None:
    old = gateway.command("prices", "list", "--overrides")["digest"]
    assert costs(gateway.url) == {"0.0045"}
    stream = Stream(gateway.url)
    stream.start()
    assert stream.begun.wait(30)
    office = Office(gateway.data_dir)
    assert office("prices", "set", "anthropic/claude-sonnet-*", "--input", "30", "--output",
                  "150").code == 0  # fmt: skip
    assert costs(gateway.url) == {"0.045"}  # at once, in both workers
    stream.enough.set()
    stream.join(30)
    event = until(lambda: event_of(gateway.data_dir, "slow"), 30)
    assert (event.outcome, event.in_fresh, event.prices) == ("cut", 1000, old[:16])
    assert event.cost == 1000 * 3_000 + event.out_text * 15_000 and event.out_text
    (change,) = logged(gateway.data_dir)
    assert change.digest[:16] != event.prices
    assert {one.prices for one in _requests(gateway.data_dir)} == {old[:16], change.digest[:16]}


def _requests(folder: Path) -> list[events.ModelAccess]:
    found = [events.decode(raw) for _, raw in Reader(folder).read(0, 100_000)]
    return [event for event in found if isinstance(event, events.ModelAccess)]


def test_a_changed_price_file_is_taken_up_and_a_bad_one_is_not(gateway: RunningGateway) -> None:
    file = gateway.config.parent / "own.json"
    file_of(file, **{"anthropic/*": {"input": "1", "output": "1"}})
    until(lambda: costs(gateway.url) == {"0.0011"}, 30)
    file.write_text('{"models": {"anthropic/*": {"input": 1}}}')
    until(lambda: "the new price file is not used" in gateway.log.read_text(), 30)
    # a worker that had not looked since the good file takes it from the store
    until(lambda: costs(gateway.url) == {"0.0011"}, 30)
    office = Office(gateway.data_dir)  # beside a bad file the store still counts
    assert office("prices", "set", f"anthropic/{SONNET}", "--input", "2", "--output", "0").code == 0
    until(lambda: costs(gateway.url) == {"0.002"}, 30)
    assert office("prices", "unset", f"anthropic/{SONNET}").code == 0
    until(lambda: costs(gateway.url) == {"0.0011"}, 30)
    file_of(file)
    until(lambda: costs(gateway.url) == {"0.0045"}, 30)
    until(lambda: len(logged(gateway.data_dir)) == 4, 30)
    actors = [event.actor for event in logged(gateway.data_dir)]
    me = f"cli:{getpass.getuser()}"
    assert actors == ["config", me, me, "config"]  # once each, though there are two workers


def test_a_model_nobody_priced_is_served_once_it_has_a_price(gateway: RunningGateway) -> None:
    def status() -> int:
        return httpx.post(f"{gateway.url}/v1/messages", json=message(model="anthropic/claude-new"),
                          headers=bearer()).status_code  # fmt: skip

    assert status() == 400
    price = ("--input", "1", "--output", "1")
    assert Office(gateway.data_dir)("prices", "set", "anthropic/claude-new", *price).code == 0
    until(lambda: {status() for _ in range(6)} == {200}, 30)


def test_two_digits_are_not_enough(opened: tuple[Directory, Gate]) -> None:
    pricing = Pricing(opened[0].prices, opened[1])
    known = pricing.publish(None)
    state = opened[0].prices.state()
    twin = msgspec.structs.replace(state, digest=known.digest[:10] + "0" * 54)
    opened[0].prices.remember(twin, known.listing)
    with pytest.raises(Conflict, match="more digits"):
        pricing.table(known.digest[:9])
