"""Webhooks: signed as the standard says, delivered whatever dies, tried again, never in the way."""

from __future__ import annotations

import asyncio
import json
import re
import signal
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest

from bifrost.audit.events import BudgetReached, decode
from bifrost.audit.log import Reader
from bifrost.config.settings import Webhook
from bifrost.embedding import Gateway
from bifrost.webhooks.courier import WAITS_S, wait_s
from bifrost.webhooks.delivery import Sender, retry_after_s
from bifrost.webhooks.messages import trial
from bifrost.webhooks.signature import headers, sign
from tests.administration import Admin, problem
from tests.authority import certify
from tests.commands import Office, bifrost, until
from tests.receiver import OTHER_SECRET, SECRET, Receiver
from tests.running import KEY, RunningGateway, RunningMock, configuration, message
from tests.test_proxied import Proxy
from tests.test_serve import ask, children, logged, rewrite

DOCS = Path(__file__).parent.parent / "docs" / "webhooks.md"
COST = "0.006"  # 1,000 tokens in, 200 out, of a Sonnet
LIMIT = "0.06"  # ten of them
PATIENCE_S = 40.0


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    running = RunningMock(
        tmp_path_factory.mktemp("mock"), "--input-tokens", "1000", "--output-tokens", "200"
    )
    yield running
    running.stop()


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    running = Receiver()
    yield running
    running.close()


def told(mock: RunningMock, *receivers: Receiver, **more: Any) -> dict[str, Any]:
    """A configuration whose key has ten requests, and who is told of it."""
    budget = {"max_limit": LIMIT, "reset_duration": "1d", "overdraft": "last_request"}
    hooks = [
        {"name": f"hook{n}", "url": one.url, "secret": SECRET} for n, one in enumerate(receivers)
    ]
    return {**configuration(mock.url, budgets=[budget]), "webhooks": hooks, **more}


@pytest.fixture
def gateway(mock: RunningMock, receiver: Receiver, tmp_path: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path, told(mock, receiver))
    yield running
    running.stop()


def spend(gateway: RunningGateway, times: int) -> None:
    for _ in range(times):
        answer = ask(gateway.url)
        assert answer.status_code == 200, answer.text
        assert answer.headers["x-bf-cost-usd"] == COST


def in_log(gateway: RunningGateway) -> list[BudgetReached]:
    entries = (decode(raw) for _, raw in Reader(gateway.data_dir).read(0, 1_000_000))
    return [event for event in entries if isinstance(event, BudgetReached)]


def command(gateway: RunningGateway, *arguments: str) -> Any:
    return Office(gateway.data_dir).json(*arguments)


def delivered(gateway: RunningGateway) -> list[dict[str, Any]]:
    return list(command(gateway, "webhooks", "deliveries", "--state", "delivered"))


def test_thresholds_reach_the_receiver_in_order_signed_and_each_once(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    spend(gateway, 4)
    for more, count in ((1, 1), (3, 2), (2, 4)):
        spend(gateway, more)
        until(lambda count=count: len(receiver.thresholds()) == count, PATIENCE_S)
    assert receiver.thresholds() == [50, 80, 95, 100]
    assert ask(gateway.url).status_code == 402
    assert len(receiver.received) == 4
    first = receiver.received[0]
    assert first.path == "/hooks/token-in-path?x=%2F"
    assert first.headers["content-type"] == "application/json"
    body = first.verified()
    assert body["type"] == "budget.threshold"
    assert abs(datetime.fromisoformat(body["timestamp"]) - datetime.now(UTC)) < timedelta(minutes=5)
    [event] = [one for one in in_log(gateway) if one.threshold == 50]
    start, end = (
        datetime.fromtimestamp(ns / 1e9, UTC) for ns in (event.window_start, event.window_end)
    )
    data = body["data"]
    assert abs(datetime.fromisoformat(data.pop("window_start")) - start) < timedelta(seconds=1)
    assert abs(datetime.fromisoformat(data.pop("window_end")) - end) < timedelta(seconds=1)
    assert data == {
        "budget_id": event.budget,
        "owner": {"level": "key", "id": event.id, "name": "alice-dev"},
        "threshold_percent": 50,
        "limit_usd": "0.06", "limit_nano_usd": 60_000_000,
        "spent_usd": "0.03", "spent_nano_usd": 30_000_000,
    }  # fmt: skip
    until(lambda: len(delivered(gateway)) == 4, PATIENCE_S)
    [standing] = command(gateway, "webhooks", "list")
    assert standing["receiver"] == f"http://127.0.0.1:{receiver.port}"
    assert (standing["state"], standing["delivered"], standing["waiting"]) == ("active", 4, 0)


def test_alerts_are_listed_by_command_and_api(gateway: RunningGateway) -> None:
    spend(gateway, 8)
    until(lambda: len(command(gateway, "alerts")) == 2, PATIENCE_S)
    found = command(gateway, "alerts", "--owner", "alice-dev")
    assert [one["threshold_percent"] for one in found] == [80, 50]
    assert found[0]["spent_usd"] == "0.048"
    assert 0.03 <= float(found[1]["spent_usd"]) <= 0.048  # what it was when the steward looked
    assert command(gateway, "alerts", "--owner", "nobody") == []
    with Admin(gateway) as admin:
        assert admin.get("/alerts")["items"] == found
        assert admin.get(f"/alerts?budget={found[0]['budget_id']}&limit=1")["items"] == found[:1]
        assert admin.get("/alerts?to=2020-01-01")["items"] == []
        assert "limit" in problem(admin("GET", "/alerts?limit=0"), 400)
        shown = admin.get("/config")
    assert receiver_of(shown) == {"url": "***", "secret": "***"}


def receiver_of(shown: dict[str, Any]) -> dict[str, Any]:
    hook = shown["webhooks"][0]
    return {name: hook[name] for name in ("url", "secret")}


def test_kills_in_the_middle_tell_each_threshold_once_under_one_id(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    for _ in range(5):
        spend(gateway, 2)
        for child in children(gateway):
            if not serves(child.pid, gateway):
                child.kill()
    until(lambda: set(receiver.thresholds()) == {50, 80, 95, 100}, PATIENCE_S)
    until(lambda: len(delivered(gateway)) == 4, PATIENCE_S)
    assert [event.threshold for event in in_log(gateway)] == [50, 80, 95, 100]
    assert len({one.id for one in receiver.received}) == 4


def serves(pid: int, gateway: RunningGateway) -> bool:
    """Whether a child listens: the worker; the steward and the courier do not."""
    import psutil

    try:
        sockets = psutil.Process(pid).net_connections("tcp")
    except psutil.NoSuchProcess:
        return False
    port = int(gateway.url.rpartition(":")[2])
    return any(one.status == "LISTEN" and one.laddr.port == port for one in sockets)


def test_a_receiver_that_was_down_gets_what_it_missed(mock: RunningMock, tmp_path: Path) -> None:
    receiver = Receiver()
    gateway = RunningGateway(tmp_path, told(mock, receiver))
    try:
        receiver.close()
        spend(gateway, 5)

        def failed() -> Any:
            return [one for one in command(gateway, "webhooks", "deliveries") if one["attempts"]]

        [waiting] = until(failed, PATIENCE_S)
        assert waiting["state"] == "waiting" and waiting["next_attempt_at"]
        assert waiting["last_error"] == "no connection: Connection refused"
        receiver = Receiver(port=receiver.port)
        until(lambda: receiver.thresholds() == [50], PATIENCE_S)  # by itself
        assert receiver.received[0].id == waiting["id"]
        [one] = until(lambda: delivered(gateway), PATIENCE_S)
        assert one["id"] == waiting["id"] and one["attempts"] >= 2
    finally:
        gateway.stop()
        receiver.close()
    warned = [line for line in logged(gateway) if line["logger"] == "bifrost.webhooks"]
    assert warned and "token-in-path" not in gateway.log.read_text()


def test_a_failure_is_tried_again_under_the_same_id_with_a_fresh_signature(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    receiver.answers = [(500, {}, b"broken\x07 " + b"x" * 10_000)] * 100
    spend(gateway, 5)
    until(lambda: receiver.received, PATIENCE_S)
    [one] = until(
        lambda: [one for one in command(gateway, "webhooks", "deliveries") if one["attempts"]],
        PATIENCE_S,
    )
    error = one["last_error"]
    assert error.startswith("HTTP 500: broken xxx") and len(error) < 250
    receiver.answers = [(503, {"retry-after": "1"}, b"")]
    assert command(gateway, "webhooks", "retry", "hook0") == {"retried": 1}
    until(lambda: delivered(gateway), PATIENCE_S)
    assert len(receiver.received) >= 3 and not receiver.answers
    assert len({(one.id, one.body) for one in receiver.received}) == 1
    for one in receiver.received:
        assert one.verified()["data"]["threshold_percent"] == 50


def test_a_receiver_that_is_gone_is_left_alone_until_somebody_says_so(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    receiver.answers = [(410, {}, b"")]
    spend(gateway, 5)
    until(lambda: command(gateway, "webhooks", "list")[0]["state"] == "gone", PATIENCE_S)
    spend(gateway, 3)
    until(lambda: len(in_log(gateway)) == 2, PATIENCE_S)
    [parked] = command(gateway, "webhooks", "deliveries")
    assert parked["state"] == "parked" and parked["last_status"] == 410
    assert command(gateway, "webhooks", "retry") == {"retried": 1}
    until(lambda: receiver.thresholds() == [50, 80], PATIENCE_S)
    assert bifrost("webhooks", "retry", "nobody", "--data-dir", gateway.data_dir).code == 1
    missing = bifrost("webhooks", "retry", "--id", "msg_none", "--data-dir", gateway.data_dir)
    assert missing.code == 1 and "msg_none" in missing.err


def test_while_secrets_change_both_are_right(
    mock: RunningMock, receiver: Receiver, tmp_path: Path
) -> None:
    config = told(mock, receiver)
    config["webhooks"][0] |= {"secret": OTHER_SECRET, "old_secrets": [SECRET]}
    gateway = RunningGateway(tmp_path, config)
    try:
        spend(gateway, 5)
        until(lambda: receiver.received, PATIENCE_S)
    finally:
        gateway.stop()
    [one] = receiver.received
    assert one.verified(SECRET) == one.verified(OTHER_SECRET)
    assert len(one.headers["webhook-signature"].split(" ")) == 2


def test_a_slow_receiver_keeps_no_other_waiting(
    mock: RunningMock, receiver: Receiver, tmp_path: Path
) -> None:
    import socket

    with socket.create_server(("127.0.0.1", 0)) as silent:  # accepts, never answers
        config = told(mock, receiver)
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/"
        config["webhooks"].append(
            {"name": "silent", "url": url, "secret": SECRET, "timeout_s": 0.3}
        )
        gateway = RunningGateway(tmp_path, config)
        try:
            spend(gateway, 10)
            until(lambda: receiver.thresholds() == [50, 80, 95, 100], PATIENCE_S)

            def failed() -> Any:
                found = command(gateway, "webhooks", "deliveries", "--webhook", "silent")
                return [one for one in found if one["attempts"]]

            assert until(failed, PATIENCE_S)[0]["last_error"] == "no answer within 0.3 s"
        finally:
            gateway.stop()


def test_a_reload_brings_webhooks_and_thresholds_in_and_out(
    mock: RunningMock, receiver: Receiver, tmp_path: Path
) -> None:
    gateway = RunningGateway(tmp_path, told(mock))
    try:
        spend(gateway, 5)
        until(lambda: [one.threshold for one in in_log(gateway)] == [50], PATIENCE_S)
        rewrite(gateway, told(mock, receiver, alerts={"budget_thresholds": [70, 90]}))
        until(lambda: "webhooks" in names(gateway), PATIENCE_S)
        spend(gateway, 2)
        until(lambda: receiver.thresholds() == [70], PATIENCE_S)  # history is not news
        rewrite(gateway, told(mock, alerts={"budget_thresholds": [70, 90]}))
        until(lambda: command(gateway, "webhooks", "list") == [], PATIENCE_S)
        spend(gateway, 2)
        until(lambda: [one.threshold for one in in_log(gateway)] == [50, 70, 90], PATIENCE_S)
        assert receiver.thresholds() == [70]
    finally:
        gateway.stop()


def names(gateway: RunningGateway) -> list[str]:
    """The webhooks the gateway serves."""
    done = bifrost("webhooks", "list", "--json", "--data-dir", gateway.data_dir)
    return ["webhooks"] if done.code == 0 and json.loads(done.out) else []


def test_a_restart_without_a_gap_tells_nothing_twice(
    gateway: RunningGateway, receiver: Receiver
) -> None:
    spend(gateway, 5)
    until(lambda: receiver.thresholds() == [50], PATIENCE_S)
    gateway.process.send_signal(signal.SIGUSR2)
    until(lambda: "Bifrost was restarted on" in gateway.more(), PATIENCE_S)
    spend(gateway, 5)
    until(lambda: receiver.thresholds() == [50, 80, 95, 100], PATIENCE_S)
    assert [event.threshold for event in in_log(gateway)] == [50, 80, 95, 100]


def test_the_documented_verification_takes_our_messages_and_no_others() -> None:
    code = re.search(r"```python\n(.*?)```", DOCS.read_text("utf-8"), re.S)
    assert code is not None
    given: dict[str, Any] = {}
    exec(code[1], given)
    now, body = int(time.time()), b'{"type":"budget.threshold"}'
    signed = headers([OTHER_SECRET, SECRET], "msg_1", now, body)
    given["verify"](SECRET, signed, body)
    for wrong in (
        (SECRET, signed, body + b" "),
        (SECRET, {**signed, "webhook-id": "msg_2"}, body),
        (SECRET, headers([OTHER_SECRET], "msg_1", now, body), body),
        (SECRET, headers([SECRET], "msg_1", now - 3600, body), body),
    ):
        with pytest.raises(ValueError):
            given["verify"](*wrong)


def test_an_embedded_gateway_tells_too(
    mock: RunningMock, receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "bifrost.json"
    file.write_text(json.dumps(told(mock, receiver)))
    gateway = Gateway.open(file, data_dir=tmp_path / "data")
    try:
        usage = {"input_tokens": 1000, "output_tokens": 200}
        for _ in range(8):
            ticket = gateway.admit({"x-bf-vk": KEY}, body=json.dumps(message()).encode())
            gateway.settle(ticket, usage)
        until(lambda: receiver.thresholds() == [50, 80], PATIENCE_S)
    finally:
        gateway.close()


def test_a_trial_message_says_what_came_of_it(
    mock: RunningMock, receiver: Receiver, tmp_path: Path
) -> None:
    file = tmp_path / "bifrost.json"
    file.write_text(json.dumps(told(mock, receiver)))
    done = bifrost("webhooks", "test", "hook0", "--config", file, "--json").json
    assert done["delivered"] and done["status"] == 204
    assert receiver.received[0].verified()["type"] == "webhook.test"
    receiver.answers = [(302, {"location": receiver.url}, b"")]
    done = bifrost("webhooks", "test", "hook0", "--config", file)
    assert done.code == 1 and "redirects are not followed" in done.err
    assert len(receiver.received) == 2
    unknown = bifrost("webhooks", "test", "hook1", "--config", file)
    assert unknown.code == 1 and "hook0" in unknown.err
    nothing = bifrost("webhooks", "list", "--data-dir", tmp_path)
    assert nothing.code == 1 and "No webhook has been configured" in nothing.err


def test_a_certificate_nobody_vouches_for_is_refused(mock: RunningMock, tmp_path: Path) -> None:
    ca_file, context = certify(tmp_path)
    context.set_alpn_protocols(["http/1.1"])
    receiver = Receiver(context)
    file = tmp_path / "bifrost.json"
    try:
        config = told(mock, receiver)
        file.write_text(json.dumps(config))
        refused = bifrost("webhooks", "test", "hook0", "--config", file)
        assert refused.code == 1 and "the certificate was not accepted" in refused.err
        assert receiver.received == []
        config["webhooks"][0]["ca_file"] = ca_file
        file.write_text(json.dumps(config))
        assert bifrost("webhooks", "test", "hook0", "--config", file).code == 0
    finally:
        receiver.close()


@pytest.mark.parametrize("secure", [False, True])
def test_a_message_goes_through_a_corporate_proxy(tmp_path: Path, secure: bool) -> None:
    ca_file, context = certify(tmp_path)
    context.set_alpn_protocols(["http/1.1"])
    receiver = Receiver(context if secure else None)

    async def main() -> list[bytes]:
        async with Proxy() as proxy:
            hook = Webhook(
                name="a", url=receiver.url, secret=SECRET, proxy=proxy.url, ca_file=ca_file
            )
            sender = Sender(hook)
            outcome = await sender.send(trial(time.time_ns()))
            await sender.close()
            assert outcome.status == 204, outcome
            return proxy.heads

    try:
        heads = asyncio.run(main())
    finally:
        receiver.close()
    assert len(heads) == 1 and heads[0].startswith(b"CONNECT " if secure else b"POST http://")
    assert receiver.received[0].verified()["type"] == "webhook.test"


def test_a_message_is_tried_for_about_a_day_and_waits_as_long_as_it_is_asked() -> None:
    waits = [wait_s(attempt) for attempt in range(1, len(WAITS_S) + 2)]
    assert waits[-1] is None
    known = [wait for wait in waits if wait is not None]
    assert known[0] < 10 and all(a < b for a, b in zip(known, known[2:], strict=False))
    assert 16 * 3600 < sum(known) < 28 * 3600
    assert wait_s(1, 120) == 120
    assert retry_after_s("120") == 120 and retry_after_s("99999999999") == 86_400
    assert retry_after_s("") == retry_after_s("soon") == retry_after_s("-5") == 0
    later = format_datetime(datetime.now(UTC) + timedelta(hours=1), usegmt=True)
    assert 3500 < retry_after_s(later) < 3700
    assert retry_after_s("Wed, 21 Oct 2015 07:28:00 GMT") == 0


def test_the_signature_is_the_standards_own_example() -> None:
    # From the specification's verification libraries: secret, id, time and body known to all.
    signature = sign(
        "whsec_MfKQ9r8GKYqrTwjUPD8ILPZIo2LaLaSw", "msg_p5jXN8AQM9LWM0D4loKWxJek", 1614265330,
        b'{"test": 2432232314}',
    )  # fmt: skip
    assert signature == "v1,g0hM9SsE+OTPJTGt/tmIKtSyZlE3uFJELVlNIOLJ1OE="


@pytest.mark.parametrize(
    ("change", "place"),
    [
        ({"secret": "whsec_c2hvcnQ="}, "secret: expected 'whsec_'"),
        ({"secret": "sk-not-a-secret-of-this-kind-0123"}, "secret: expected 'whsec_'"),
        ({"url": "hooks.example.com"}, "url: expected an http or https address"),
        ({"events": ["budget.treshold"]}, "did you mean 'budget.threshold'?"),
        ({"events": []}, "events: needs at least one event"),
        ({"retries": 3}, "unknown key"),
        ({"proxy": "socks5://x"}, "proxy: expected an http or https address"),
    ],
)
def test_a_wrong_webhook_is_told_by_its_place(
    mock: RunningMock, receiver: Receiver, tmp_path: Path, change: dict[str, Any], place: str
) -> None:
    config = told(mock, receiver)
    config["webhooks"][0] |= change
    file = tmp_path / "bifrost.json"
    file.write_text(json.dumps(config))
    done = bifrost("config", "check", file)
    assert done.code == 1 and re.search(r"^webhooks\[0\]", done.err, re.M) and place in done.err
    assert "token-in-path" not in done.err and "sk-not" not in done.err
