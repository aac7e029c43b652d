"""Clients on the models of AWS: governed, metered, proven to a strict Bedrock."""

from __future__ import annotations

import json
from base64 import b64encode
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import openai
import pytest

from bifrost.metering.catalogue import Catalogue
from bifrost.usage.reprice import charge, used_of
from tests.cloudhosts import INPUT, OUTPUT, Aws, Bedrock, Mantle
from tests.commands import until
from tests.converse_oracle import checked
from tests.place import BETAS, CLAUDE_CODE, Place, cost, served
from tests.running import KEY, bearer, message


def amazon(kind: str, host: Aws, by: str) -> dict[str, Any]:
    """A provider that proves itself by a signature or a key."""
    network = {"base_url": "LOOPBACK"}
    provider: dict[str, Any] = {"type": kind, "region": "us-east-1", "network": network}
    if by == "key":
        return provider | {"keys": [{"name": "main", "value": Aws.KEY}]}
    key, secret, token = host.credentials
    own = {"access_key_id": key, "secret_access_key": secret, "session_token": token}
    return provider | {"aws": own}


@pytest.mark.parametrize("by", ["signature", "key"])
def test_claude_on_bedrocks_messages_endpoint(by: str, tmp_path: Path) -> None:
    host = Mantle()
    names = {"claude-opus-5-5": "anthropic.claude-opus-5-5"}
    place = Place(tmp_path, host, amazon("bedrock_mantle", host, by), **names)
    try:
        asked = message(model="claude-opus-5-5")
        answer = place.ask(asked, anthropic_beta=BETAS)
        assert answer.json()["content"][0]["text"] == "Hello there"
        assert place.spent() == cost("4.4", "22")
        assert b"message_stop" in place.ask(asked | {"stream": True}).content
        sent = place.asked("/anthropic/v1/messages")[-1]
        assert json.loads(sent.body) == asked | {
            "stream": True, "model": "anthropic.claude-opus-5-5"
        }  # fmt: skip
        assert sent.headers["anthropic-version"] == "2023-06-01"
        gpt = place.ask(message(model="cloud/openai.gpt-oss-120b"))
        assert gpt.json()["content"] == [{"type": "text", "text": "Hi from GPT"}]
        assert place.asked("/v1/chat/completions")
        if by == "signature":
            host.credentials = host.credentials._replace(secret_access_key="rotated")
            assert place.ask(asked).status_code == 403
    finally:
        place.close()


@pytest.mark.parametrize("by", ["signature", "key"])
def test_claude_code_on_bedrocks_invoke_model(by: str, tmp_path: Path) -> None:
    host = Bedrock()
    names = {
        "claude-opus-5-5": "us.anthropic.claude-opus-5-5",
        "claude-sonnet-4-5": "us.anthropic.claude-sonnet-4-5-20250929-v1:0",
    }
    place = Place(tmp_path, host, amazon("bedrock", host, by), **names)
    try:
        body = CLAUDE_CODE.read_bytes()
        answer = place.ask(body, "/v1/messages?beta=true", anthropic_beta=BETAS)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        assert answer.content.endswith(b'data: {"type":"message_stop"}\n\n')
        assert place.spent() == cost("4.4", "22")
        sent = place.asked("/model/")[-1]
        assert sent.target == "/model/us.anthropic.claude-opus-5-5/invoke-with-response-stream"
        assert "anthropic-beta" not in sent.headers and "anthropic-version" not in sent.headers
        assert json.loads(sent.body)["tools"] == json.loads(body)["tools"]
        whole = place.ask(message(model="claude-sonnet-4-5"))
        assert whole.json()["content"][0]["text"] == "Hello there"
        assert place.asked("/model/")[-1].target.endswith("-20250929-v1:0/invoke")
        with openai.OpenAI(base_url=f"{place.url}/openai/v1", api_key=KEY, max_retries=0) as client:
            chat = client.chat.completions.create(
                model="claude-sonnet-4-5", messages=[{"role": "user", "content": "hi"}]
            )
        assert chat.choices[0].message.content == "Hello there"
        counted = place.ask(message(model="claude-opus-5-5"), "/v1/messages/count_tokens")
        assert counted.json() == {"input_tokens": 80}
        assert (
            place.asked("count-tokens")[-1].path == "/model/anthropic.claude-opus-5-5/count-tokens"
        )
        if by == "signature":
            host.credentials = host.credentials._replace(secret_access_key="rotated")
            refused = place.ask(message(model="claude-sonnet-4-5"))
            assert refused.status_code == 403
            assert refused.json()["error"]["type"] == "permission_error"
    finally:
        place.close()


NOVA, LLAMA = "us.amazon.nova-pro-v1:0", "us.meta.llama4-scout-17b-instruct-v1:0"


@pytest.mark.parametrize("by", ["signature", "key"])
def test_bedrocks_other_models_by_converse(by: str, tmp_path: Path) -> None:
    """For clients of every dialect, proven like InvokeModel, paid to the nano-dollar."""
    host = Bedrock()
    names = {"claude-haiku-4-5": NOVA, "llama": LLAMA}
    place = Place(tmp_path, host, amazon("bedrock", host, by), **names)
    try:
        whole = place.ask(message(model="claude-haiku-4-5"))
        assert whole.status_code == 200, whole.text
        assert whole.json()["usage"]["input_tokens"] == INPUT
        streamed = place.ask(message(model="claude-haiku-4-5", stream=True))
        assert streamed.headers["content-type"].startswith("text/event-stream")
        assert streamed.content.endswith(b'data: {"type":"message_stop"}\n\n')
        claude_code = json.loads(CLAUDE_CODE.read_bytes()) | {"model": "claude-haiku-4-5"}
        answer = place.ask(claude_code, "/v1/messages?beta=true", anthropic_beta=BETAS)
        assert answer.status_code == 200 and b"message_stop" in answer.content, answer.text
        assert place.spent() == 3 * cost("0.80", "3.20")
        assert [one.path for one in place.asked("/model/")] == [
            f"/model/{NOVA}/converse", *[f"/model/{NOVA}/converse-stream"] * 2
        ]  # fmt: skip
        assert [one.headers["accept"] for one in place.asked("/model/")] == ["application/json"] * 3
        text = whole.json()["content"][0]["text"]
        with openai.OpenAI(base_url=f"{place.url}/openai/v1", api_key=KEY, max_retries=0) as client:
            chat = client.chat.completions.create(
                model="llama", messages=[{"role": "user", "content": "hi"}]
            )
            assert chat.choices[0].message.content == text
            assert client.responses.create(model="llama", input="hi").output_text == text
        asked = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
        path = f"{place.url}/genai/v1beta/models/llama:generateContent"
        told = httpx.post(path, json=asked, headers={"x-goog-api-key": KEY}).json()
        assert told["candidates"][0]["content"]["parts"][0]["text"] == text
        assert place.spent() == 3 * cost("0.80", "3.20") + 3 * cost("0.17", "0.66")
        page = httpx.get(f"{place.url}/v1/models", headers=bearer(), params={"limit": 1000}).json()
        listed = {model["id"] for model in page["data"]}
        assert {NOVA, LLAMA, "us.deepseek.r1-v1:0"} <= listed
        assert not [name for name in listed if name.startswith("us-west-2/")]
        assert place.ask(message(model="cloud/us-west-2/zai.glm-5")).status_code == 404
        if by == "signature":
            host.credentials = host.credentials._replace(secret_access_key="rotated")
            assert place.ask(message(model="llama")).status_code == 403
    finally:
        place.close()


def test_tokens_of_models_that_converse_are_counted_there_or_by_size(tmp_path: Path) -> None:
    host = Bedrock()
    names = {"claude-haiku-4-5": NOVA, "llama": LLAMA}
    place = Place(tmp_path, host, amazon("bedrock", host, "signature"), **names)
    try:
        told = {}
        for model in names:
            asked = {key: one for key, one in message(model=model).items() if key != "max_tokens"}
            answer = place.ask(asked, "/v1/messages/count_tokens", anthropic_beta=BETAS)
            assert answer.status_code == 200, answer.text
            told[model] = answer.json()["input_tokens"]
        assert told["claude-haiku-4-5"] == INPUT
        assert 0 < told["llama"] < 100  # Bedrock does not count for it
        assert [one.path for one in place.asked("/model/")] == [
            f"/model/{model.removeprefix('us.')}/count-tokens" for model in (NOVA, LLAMA)
        ]
        sent = json.loads(place.asked("nova")[-1].body)
        assert checked(sent, NOVA, count=True)["input"]["converse"].keys() == {"messages"}
        assert place.spent() == 0
    finally:
        place.close()


@pytest.mark.parametrize("own", [False, True])
def test_a_model_costs_what_it_costs_in_its_region(tmp_path: Path, own: bool) -> None:
    """Unless the administrator has a price for it."""
    host = Bedrock()
    name = "deepseek.v3.2"
    provider = amazon("bedrock", host, "signature") | {"region": "ap-northeast-1"}
    host.region = "ap-northeast-1"
    place = Place(tmp_path, host, provider, deep=name)
    try:
        if own:
            rate = ["--input", "1", "--output", "2"]
            place.gateway.command("prices", "set", f"cloud/{name}", *rate)
        for number, stream in enumerate((False, True), 1):
            answer = place.ask(message(model="deep", stream=stream))
            assert answer.status_code == 200, answer.text
            prices = ("1", "2") if own else ("0.74", "2.22")
            due = sum(Decimal(p) * n for p, n in zip(prices, (INPUT, OUTPUT), strict=True))
            assert place.spent() == number * due / 1_000_000
        told = until(lambda: found if len(found := served(place)) == 2 else None)
        priced = None if own else f"ap-northeast-1/{name}"
        assert {(one.model, one.priced) for one in told} == {(name, priced)}
        for one in told if not own else ():  # whoever computes it again comes to the same
            usage = used_of(one)
            assert usage is not None and charge(one, usage, Catalogue.load()) == one.cost
    finally:
        place.close()


def test_claude_by_converse_where_the_configuration_says_so(tmp_path: Path) -> None:
    """With what it cached, each at its price."""
    host = Bedrock()
    split = {"ephemeral_5m_input_tokens": 400, "ephemeral_1h_input_tokens": 600}
    host.used = {"input_tokens": 7, "output_tokens": 30, "cache_read_input_tokens": 5_000,
                 "cache_creation": split}  # fmt: skip
    provider = amazon("bedrock", host, "key") | {"api": "converse"}
    place = Place(tmp_path, host, provider, **{"claude-sonnet-4-5": SONNET})
    due = 7 * Decimal("3.3") + 30 * Decimal("16.5") + 5_000 * Decimal("0.33")
    due = (due + 400 * Decimal("4.125") + 600 * Decimal("6.6")) / 1_000_000
    try:
        for number, stream in enumerate((False, True), 1):
            answer = place.ask(message(model="claude-sonnet-4-5", stream=stream))
            assert answer.status_code == 200, answer.text
            assert place.spent() == number * due
        assert {one.path.rpartition("/")[2] for one in place.asked("/model/")} == {
            "converse", "converse-stream"
        }  # fmt: skip
    finally:
        place.close()


def test_frames_of_converse_that_break_off_are_told_and_paid(tmp_path: Path) -> None:
    host = Bedrock()
    host.cut = True
    place = Place(tmp_path, host, amazon("bedrock", host, "key"), **{"claude-haiku-4-5": NOVA})
    try:
        answer = place.ask(message(model="claude-haiku-4-5", stream=True))
        assert answer.status_code == 200
        assert "content_block_start" in answer.text and "message_stop" not in answer.text
        assert answer.text.count("event: error") == 1
        assert 0 < place.spent() < cost("0.80", "3.20")
    finally:
        place.close()


SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
INVOKED = {
    "claude-opus-5-5": "us.anthropic.claude-opus-5-5", "team-sonnet": PROFILE,
    "claude-busy": "anthropic.claude-busy",
}  # fmt: skip


def invoked(folder: Path, **manners: bool) -> Place:
    """InvokeModel before which the gateway signs."""
    host = Bedrock()
    host.cut, host.works = manners.get("cut", False), manners.get("works", False)
    place = Place(folder, host, amazon("bedrock", host, "signature"), **INVOKED)
    for model in (PROFILE, "anthropic.claude-busy"):
        place.gateway.command("prices", "set", f"bedrock/{model}", "--input", "3", "--output", "15")
    return place


def test_bedrocks_clients_by_bedrocks_own_ids(tmp_path: Path) -> None:
    place = invoked(tmp_path)
    try:
        with anthropic.AnthropicBedrock(
            api_key=KEY, aws_region="us-east-1", base_url=f"{place.url}/bedrock", max_retries=0
        ) as client:
            with client.messages.stream(**message(model=SONNET)) as stream:
                assert stream.get_final_text() == "Hello there"
            told = client.messages.create(**message(model="us.anthropic.claude-opus-5-5"))
        assert told.usage.output_tokens == OUTPUT
        assert place.spent() == cost("3.3", "16.5") + cost("4.4", "22")
        assert place.asked(SONNET)[-1].path == f"/model/{SONNET}/invoke-with-response-stream"
        body = b64encode(json.dumps(message()).encode()).decode()
        path = f"/bedrock/model/{SONNET}/count-tokens"
        counted = place.ask({"input": {"invokeModel": {"body": body}}}, path)
        assert counted.json() == {"inputTokens": 80}
        assert counted.headers["x-bf-count"] == "reported"
        assert (
            place.asked("count-tokens")[-1].path
            == f"/model/{SONNET.partition('.')[2]}/count-tokens"
        )
    finally:
        place.close()


def test_a_profiles_arn_is_signed_as_it_is_sent_and_exceptions_are_told(tmp_path: Path) -> None:
    place = invoked(tmp_path)
    try:
        until(lambda: place.ask(message(model="team-sonnet")).status_code == 200)
        target = place.asked("a1b2c3")[-1].path
        assert target == f"/model/{PROFILE.replace('/', '%2F')}/invoke"
        answer = place.ask(message(model="claude-busy", stream=True))
        assert (answer.status_code, answer.text.count("event: error")) == (200, 1)
        assert "rate_limit_error" in answer.text
    finally:
        place.close()


def test_frames_that_break_off_are_told_and_paid(tmp_path: Path) -> None:
    place = invoked(tmp_path, cut=True)
    try:
        answer = place.ask(message(model="claude-opus-5-5", stream=True))
        assert answer.status_code == 200
        assert "content_block_start" in answer.text and "message_stop" not in answer.text
        assert answer.text.count("event: error") == 1
        assert 0 < place.spent() < cost("4.4", "22")
    finally:
        place.close()
