"""Own prices through the REST API of a gateway with two workers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

import httpx
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from tests.administration import Admin, problem
from tests.commands import until
from tests.running import RunningGateway, RunningMock, bearer, configuration, message

PRICES, TABLES = "/governance/prices", "/governance/price-tables"
MODEL = "claude-sonnet-4-5"


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    folder = tmp_path_factory.mktemp("gateway")
    config = configuration(mock.url)
    config["models"] = {"fast": [{"provider": "anthropic", "model": MODEL}]}
    running = RunningGateway(folder, config, "--workers", "2")
    yield running
    running.stop()


@pytest.fixture(scope="module")
def admin(gateway: RunningGateway) -> Iterator[Admin]:
    with Admin(gateway) as found:
        yield found


@pytest.fixture(autouse=True)
def emptied(admin: Admin) -> Iterator[None]:
    yield
    for price in admin.get(f"{PRICES}?limit=1000")["items"]:
        assert admin("DELETE", f"{PRICES}/{price['id']}").status_code == 204


def cost(url: str, model: str = MODEL) -> set[str]:
    """What fresh connections pay for 1,000 tokens in, so that both workers answer some; or why
    not."""
    headers = bearer() | {"x-mock-usage": '{"input_tokens": 1000, "output_tokens": 0}'}
    answers = [
        httpx.post(f"{url}/v1/messages", headers=headers, json=message(model=model))
        for _ in range(8)
    ]
    return {
        answer.headers.get("x-bf-cost-usd", answer.headers.get("x-bf-error", answer.text))
        for answer in answers
    }


def told(gateway: RunningGateway) -> list[events.PriceChange]:
    found = [events.decode(raw) for _, raw in Reader(gateway.data_dir).read(0, 100_000)]
    return [event for event in found if isinstance(event, events.PriceChange)]


def own(pattern: str, price: str = "1", **more: Any) -> dict[str, Any]:
    return {"pattern": pattern, "price": {"input": price, "output": price}} | more


def test_a_price_holds_at_once_in_every_worker_and_is_recorded(
    gateway: RunningGateway, admin: Admin
) -> None:
    before = len(told(gateway))
    assert cost(gateway.url) == {"0.003"}
    body = own("anthropic/claude-sonnet-*", "7", reason="contract of 2026")
    made = admin("POST", PRICES, body)
    price = admin.data(made, 201)
    assert cost(gateway.url) == {"0.007"}
    assert made.headers["location"] == f"/api{PRICES}/{price['id']}"
    assert price["price"] == body["price"] and price["set_by"] == "admin"
    assert price["set_reason"] == "contract of 2026"
    path = f"{PRICES}/{quote(body['pattern'], safe='')}"
    assert admin.get(path) == admin.get(f"{PRICES}/{price['id']}") == price
    changed = admin.data(admin("PUT", path, {"price": {"input": "9", "output": "9"}}), 200)
    assert cost(gateway.url) == {"0.009"}
    assert changed["id"] == price["id"] and changed["set_reason"].startswith("request ")
    answer = admin("DELETE", f"{path}?reason=over")
    assert answer.status_code == 204
    assert cost(gateway.url) == {"0.003"}
    found = until(lambda: (new := told(gateway)[before:])[2:] and new, 30)
    assert [(event.actor, event.reason) for event in found] == [
        ("admin", "contract of 2026"),
        ("admin", changed["set_reason"]),
        ("admin", "over"),
    ]
    name = "store anthropic/claude-sonnet-*"
    assert [event.changes for event in found] == [
        (f"{name}: none -> input 7, output 7",),
        (f"{name}: input 7, output 7 -> input 9, output 9",),
        (f"{name}: input 9, output 9 -> none",),
    ]
    assert found[0].before == found[2].digest
    assert [event.before for event in found[1:]] == [event.digest for event in found[:-1]]


def test_a_model_nobody_priced_is_served_from_the_next_request_on(
    gateway: RunningGateway, admin: Admin
) -> None:
    model = "anthropic/claude-next"
    assert cost(gateway.url, model) == {"model_unpriced"}
    price = admin.post(PRICES, own("anthropic/claude-next", "2"))
    assert cost(gateway.url, model) == {"0.002"}
    assert admin("DELETE", f"{PRICES}/{price['id']}").status_code == 204
    assert cost(gateway.url, model) == {"model_unpriced"}


def test_whoever_asks_first_after_a_change_leaves_no_old_price_behind(
    gateway: RunningGateway, admin: Admin
) -> None:
    assert cost(gateway.url, "fast") == {"0.003"}
    price = admin.post(PRICES, own("anthropic/*", "5"))
    # Lists of models and counts of tokens look for the price, too.
    with httpx.Client(headers=bearer()) as one, httpx.Client(headers=bearer()) as other:
        for client in (one, other):
            assert client.get(f"{gateway.url}/v1/models").status_code == 200
    assert cost(gateway.url, "fast") == {"0.005"}
    assert admin("DELETE", f"{PRICES}/{price['id']}").status_code == 204
    body = message(model="fast")
    for _ in range(3):
        httpx.post(f"{gateway.url}/v1/messages/count_tokens", headers=bearer(), json=body)
    assert cost(gateway.url, "fast") == {"0.003"}


def test_prices_are_listed_as_they_are_tried(admin: Admin) -> None:
    for pattern in ("anthropic/*", f"anthropic/{MODEL}", "anthropic/claude-*"):
        admin.post(PRICES, own(pattern))
    page = admin.get(f"{PRICES}?limit=2&offset=1")
    assert [one["pattern"] for one in page["items"]] == ["anthropic/claude-*", "anthropic/*"]
    assert (page["total"], page["limit"], page["offset"]) == (3, 2, 1)
    (one,) = admin.get(f"{PRICES}?q=SONNET")["items"]
    assert one["pattern"] == f"anthropic/{MODEL}"
    listed = admin.get(f"/models?q={MODEL}&limit=1000")
    assert listed["price_table"]["digest"] == page["price_table"]["digest"]
    origins = {row["name"]: row["price_from"] for row in listed["items"]}
    assert origins[MODEL] == "store"


def test_a_price_is_changed_only_as_it_was_seen(admin: Admin) -> None:
    made = admin("POST", PRICES, own("anthropic/*"))
    path, tag = f"{PRICES}/{made.json()['id']}", made.headers["etag"]
    assert admin("GET", path, if_none_match=tag).status_code == 304
    other = {"price": {"input": "2", "output": "2"}}
    changed = admin("PUT", path, other, if_match=tag)
    assert changed.status_code == 200 and changed.headers["etag"] != tag
    problem(admin("PUT", path, other, if_match=tag), 412)
    problem(admin("DELETE", path, if_match=tag), 412)
    same = admin("PUT", path, changed.json())  # as it was answered: nothing is changed
    assert same.json() == changed.json() and same.headers["etag"] == changed.headers["etag"]
    assert admin("DELETE", path, if_match=changed.headers["etag"]).status_code == 204
    problem(admin("GET", path), 404)
    problem(admin("PUT", path, other), 404)
    problem(admin("DELETE", path), 404)


def test_a_pattern_has_one_price(admin: Admin) -> None:
    admin.post(PRICES, own("anthropic/*"))
    problem(admin("POST", PRICES, own("anthropic/*", "2")), 409, "conflict")
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda _: admin("POST", PRICES, own("local/*")), range(8)))
    assert sorted(answer.status_code for answer in answers) == [201] + [409] * 7


def test_the_same_creation_again_is_answered_alike(gateway: RunningGateway, admin: Admin) -> None:
    sent = own("local/*")
    first = admin("POST", PRICES, sent, idempotency_key="once")
    again = admin("POST", PRICES, sent, idempotency_key="once")
    assert (first.status_code, first.content) == (again.status_code, again.content)
    assert first.headers["etag"] == again.headers["etag"]
    assert again.headers["idempotency-replayed"] == "true"
    other = admin("POST", PRICES, own("local/x"), idempotency_key="once")
    problem(other, 409, "idempotency_key_reused")
    assert admin.get(PRICES)["total"] == 1


@pytest.mark.parametrize(
    "change, place, sentence",
    [
        ({"pattern": "local"}, "pattern", "<provider>/<model>"),
        ({"pattern": "l/" + "x" * 500}, "pattern", "1 to 400 characters"),
        ({"pattern": "l/\ud800"}, "pattern", "unprintable"),
        ({"price": {"input": "1"}}, "price.output", "missing"),
        ({"price": {"input": 1.5, "output": "1"}}, "price.input", "put it in quotes"),
        ({"price": {"input": "-1", "output": "1"}}, "price.input", "cannot be negative"),
        ({"price": {"input": "1e3", "output": "1"}}, "price.input", "decimal"),
        ({"price": {"input": "\u0661", "output": "1"}}, "price.input", "decimal"),
        ({"price": {"input": "0.0000001", "output": "1"}}, "price.input", "at most 6 decimals"),
        ({"price": {"input": "1", "output": "1", "inptu": "1"}}, "price.inptu", "did you mean"),
        ({"price": {"input": "1", "output": "1", "multipliers": {"speed": {"\ud800": "2"}}}},
         "price.multipliers.speed", "printable"),
        ({"price": {"input": "1", "output": "1", "multipliers": {"speed": {"fast": "0"}}}},
         "price.multipliers.speed.fast", "factor"),
        ({"price": None}, "price", "expected an object"),
        ({"reason": 5}, "reason", "expected text"),
        ({"id": "x", "more": 1}, "more", "unknown key"),
    ],
)  # fmt: skip
def test_bad_prices_are_refused_with_their_place(
    admin: Admin, change: dict[str, Any], place: str, sentence: str
) -> None:
    answer = admin.client.post(
        PRICES, content=json.dumps(own("local/*") | change),
        headers={"content-type": "application/json"},
    )  # fmt: skip
    found = problem(answer, 422, "invalid_body")
    assert sentence in found[place], found
    assert admin.get(PRICES)["total"] == 0


def test_the_pattern_of_a_price_stays(admin: Admin) -> None:
    price = admin.post(PRICES, own("local/*"))
    found = problem(admin("PUT", f"{PRICES}/{price['id']}", own("other/*")), 422)
    assert "removed and created anew" in found["pattern"]
    problem(admin("DELETE", f"{PRICES}/{price['id']}?reason="), 400)


def test_the_table_of_a_request_is_found_by_what_its_row_names(
    gateway: RunningGateway, admin: Admin
) -> None:
    price = {"input": "4", "output": "4", "cache_read": "0.4", "web_search": "0.01",
             "tiers": [{"above": 1000, "input": "8", "output": "8"}],
             "multipliers": {"speed": {"fast": "2"}}}  # fmt: skip
    admin.post(PRICES, {"pattern": "anthropic/*", "price": price})
    sent = httpx.post(
        f"{gateway.url}/v1/messages", json=message(), headers=bearer() | {"x-request-id": "named"}
    )
    assert sent.status_code == 200

    def row() -> Any:
        found = admin.get("/logs?request_id=named")["items"]
        return found and found[0]

    digest = until(row, 30)["price_table"]
    assert len(digest) == 16
    table = admin.get(f"{TABLES}/{digest}")
    assert table["store"] == {"anthropic/*": price} and table["file"] == {}
    assert table["digest"].startswith(digest)
    page = admin.get(f"{TABLES}?limit=1")
    assert page["total"] >= 2 and len(page["items"]) == 1
    every = admin.get(f"{TABLES}?limit=1000")["items"]
    assert table["digest"] in {one["digest"] for one in every}
    problem(admin("GET", f"{TABLES}/{'0' * 16}"), 404)
    problem(admin("GET", f"{TABLES}/{digest[:7]}"), 404)


def test_prices_need_the_admin_token(gateway: RunningGateway) -> None:
    for method, path in (("GET", PRICES), ("POST", PRICES), ("GET", TABLES)):
        answer = httpx.request(method, f"{gateway.url}/api{path}", headers=bearer())
        assert answer.status_code == 401
