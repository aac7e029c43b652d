"""Bedrock's clients through the gateway: on Claude, on other hosts, refused and cut."""

from __future__ import annotations

import json
from base64 import b64decode, b64encode
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any
from urllib.parse import quote

import anthropic
import botocore.session
import httpx
import pytest
from botocore.config import Config
from botocore.eventstream import EventStreamBuffer
from botocore.exceptions import ClientError

from bifrost.doors.door import path_of
from tests.running import KEY, RunningGateway, RunningMock, budget, configuration, message

INPUT, OUTPUT = 1_234, 321
SONNET = "us.anthropic.claude-sonnet-4-5-20250929-v1:0"
COST = Decimal(INPUT * 3_000 + OUTPUT * 15_000) / 10**9  # USD, at Anthropic's prices of Sonnet 4.5
PROFILE = "arn:aws:bedrock:us-east-1:123456789012:application-inference-profile/a1b2c3"
POOR = "sk-bf-poor-0123456789abcdefghijklmnopqrstuvwxyz01"
OFF = "sk-bf-off-0123456789abcdefghijklmnopqrstuvwxyz012"
SAMPLE = Path(__file__).parent / "samples" / "bedrock" / "claude-2.1.330-turn1.json"


def invoked(**more: Any) -> dict[str, Any]:
    """The body of a small InvokeModel call."""
    asked = {k: v for k, v in message().items() if k != "model"}
    return asked | {"anthropic_version": "bedrock-2023-05-31", **more}


def config(upstream: str) -> dict[str, Any]:
    made = configuration(upstream)
    made["providers"]["openai"] = {
        "type": "openai",
        "api": "chat",
        "keys": [{"name": "main", "value": "sk-openai-secret"}],
        "network": {"base_url": f"{upstream}/v1"},
    }
    made["models"] = {
        PROFILE: [{"provider": "openai", "model": "gpt-5.1"}],
        "eu.anthropic.*": [{"provider": "anthropic", "model": "claude-haiku-4-5"}],
    }
    poor = {"name": "poor", "value": POOR, "budgets": budget("0.000001")}
    off = {"name": "off", "value": OFF, "is_active": False}
    made["governance"]["virtual_keys"] += [poor, off]
    return made


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    counts = ("--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT), "--chunks", "5")
    running = RunningMock(tmp_path_factory.mktemp("mock"), "--record-bodies", *counts)
    yield running
    running.stop()


@pytest.fixture(scope="module")
def gateway(
    mock: RunningMock, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path_factory.mktemp("gateway"), config(mock.url))
    yield running
    running.stop()


def posted(
    gateway: RunningGateway, model: str, body: Any, verb: str = "invoke", key: str = KEY,
    **headers: str,
) -> httpx.Response:  # fmt: skip
    more = {name.replace("_", "-"): value for name, value in headers.items()}
    path = f"{gateway.url}/bedrock/model/{quote(model, safe=':')}/{verb}"
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        path, content=content, headers={"authorization": f"Bearer {key}", **more}, timeout=30
    )


def frames(raw: bytes) -> list[Any]:
    """What each frame brings: an event, or (exception, message)."""
    buffer = EventStreamBuffer()
    buffer.add_data(raw)
    found: list[Any] = []
    for frame in buffer:
        told = json.loads(frame.payload)
        if frame.headers[":message-type"] == "event":
            found.append(json.loads(b64decode(told["bytes"])))
        else:
            found.append((frame.headers[":exception-type"], told["message"]))
    return found


def sent(mock: RunningMock) -> tuple[dict[str, str], Any]:
    """Headers and body of what the host got last."""
    last = mock.requests()[0]
    return dict(map(tuple, last["headers"])), json.loads(b64decode(last["body"]))


def test_an_answer_is_claudes_and_metered_to_the_nano_dollar(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    before = gateway.settled()
    body = invoked(anthropic_beta=["context-1m-2025-08-07"])
    answer = posted(
        gateway, SONNET, body, anthropic_beta="a-1,context-1m-2025-08-07",
        x_amz_security_token="of-the-client", x_amzn_bedrock_accept="application/json",
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert answer.json()["usage"]["input_tokens"] == INPUT
    assert Decimal(answer.headers["x-bf-cost-usd"]) == COST == gateway.settled() - before
    assert answer.headers["x-amzn-requestid"] == answer.headers["x-request-id"]
    headers, told = sent(mock)
    assert told == message(model="claude-sonnet-4-5-20250929")
    assert headers["anthropic-version"] == "2023-06-01"
    assert headers["anthropic-beta"] == "a-1,context-1m-2025-08-07"
    assert headers["x-api-key"] == "sk-ant-upstream-secret"
    assert not [name for name in headers if name.startswith("x-amz")]


def test_a_stream_is_frames_and_metered(gateway: RunningGateway, mock: RunningMock) -> None:
    before = gateway.settled()
    asked = SAMPLE.read_bytes()
    answer = posted(gateway, SONNET, asked, "invoke-with-response-stream")
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"] == "application/vnd.amazon.eventstream"
    assert answer.headers["x-amzn-bedrock-content-type"] == "application/json"
    told = frames(answer.content)
    assert (told[0]["type"], told[-1]["type"]) == ("message_start", "message_stop")
    assert gateway.settled() - before == COST
    headers, body = sent(mock)
    expected = json.loads(asked)
    del expected["anthropic_version"]
    assert headers["anthropic-beta"] == ",".join(expected.pop("anthropic_beta"))
    assert body == {"model": "claude-sonnet-4-5-20250929", **expected, "stream": True}


def sdk(gateway: RunningGateway, key: str = KEY) -> anthropic.AnthropicBedrock:
    return anthropic.AnthropicBedrock(
        api_key=key, aws_region="us-east-1", base_url=f"{gateway.url}/bedrock", max_retries=0
    )


def test_anthropics_sdk(gateway: RunningGateway) -> None:
    before = gateway.settled()
    with sdk(gateway) as client:
        whole = client.messages.create(**message(model=SONNET))
        with client.messages.stream(**message(model=SONNET)) as stream:
            final = stream.get_final_message()
    assert whole.content and final.content
    assert (final.usage.input_tokens, final.usage.output_tokens) == (INPUT, OUTPUT)
    assert gateway.settled() - before == 2 * COST


def aws(gateway: RunningGateway, service: str) -> Any:
    """Amazon's own client, which signs what it sends; the virtual key goes beside."""
    client = botocore.session.Session().create_client(
        service, region_name="us-east-1", endpoint_url=f"{gateway.url}/bedrock",
        aws_access_key_id="AKCLIENT", aws_secret_access_key="secret",
        config=Config(retries={"max_attempts": 0}),
    )  # fmt: skip

    def named(request: Any, **_: Any) -> None:
        request.headers["x-bf-vk"] = KEY

    client.meta.events.register("before-sign", named)
    return client


def test_amazons_sdk(gateway: RunningGateway) -> None:
    body = json.dumps(invoked())
    client = aws(gateway, "bedrock-runtime")
    try:
        whole = client.invoke_model(modelId=SONNET, body=body)
        assert json.loads(whole["body"].read())["usage"]["output_tokens"] == OUTPUT
        streamed = client.invoke_model_with_response_stream(modelId=SONNET, body=body)
        events = [json.loads(one["chunk"]["bytes"]) for one in streamed["body"]]
        assert events[-1] == {"type": "message_stop"}
        counted = client.count_tokens(modelId=SONNET, input={"invokeModel": {"body": body}})
        assert counted["inputTokens"] > 0
        with pytest.raises(ClientError, match="no model|has no price") as error:
            client.invoke_model(modelId="anthropic.claude-nobody-v1:0", body=body)
        assert error.value.response["Error"]["Code"] == "ValidationException"
    finally:
        client.close()


def test_profiles_are_what_the_key_may_use(gateway: RunningGateway) -> None:
    client = aws(gateway, "bedrock")
    try:
        found = client.list_inference_profiles(typeEquals="SYSTEM_DEFINED")
    finally:
        client.close()
    ids = [one["inferenceProfileId"] for one in found["inferenceProfileSummaries"]]
    assert "global.anthropic.claude-opus-5-5" in ids and not [one for one in ids if "gpt" in one]
    answer = posted(gateway, ids[0], invoked())
    assert answer.status_code == 200, answer.text


@pytest.mark.parametrize(
    ("model", "provider", "served"),
    [
        (SONNET, "anthropic", "claude-sonnet-4-5-20250929"),
        ("global.anthropic.claude-opus-4-6-v1", "anthropic", "claude-opus-4-6"),
        (f"arn:aws:bedrock:us-east-1:123456789012:inference-profile/{SONNET}", "anthropic",
         "claude-sonnet-4-5-20250929"),
        (PROFILE, "openai", "gpt-5.1"),
        ("eu.anthropic.claude-sonnet-4-5-20250929-v1:0", "anthropic", "claude-haiku-4-5"),
        ("claude-opus-4-5", "anthropic", "claude-opus-4-5"),
    ],
)  # fmt: skip
def test_where_ids_lead(gateway: RunningGateway, model: str, provider: str, served: str) -> None:
    answer = posted(gateway, model, invoked())
    assert answer.status_code == 200, answer.text
    assert answer.headers["x-bf-provider"] == provider
    assert answer.headers["x-bf-model"] == served


def test_the_path_is_that_below_a_mount() -> None:
    assert path_of({"path": "/gw/bedrock/x", "root_path": "/gw"}) == "/bedrock/x"
    assert path_of({"path": "/bedrock/x", "root_path": "/gw"}) == "/bedrock/x"  # stripped already
    assert path_of({"path": "/bedrock/x"}) == "/bedrock/x"


def refused(answer: httpx.Response, status: int, kind: str, code: str) -> str:
    assert answer.status_code == status, answer.text
    assert answer.headers["x-amzn-errortype"] == kind
    assert answer.headers["x-bf-error"] == code
    assert answer.headers["x-should-retry"] == "false"
    told = answer.json()
    assert told["error"]["message"] == told["message"]
    assert told["error"]["type"].endswith(("_error", "_blocked"))
    return str(told["message"])


def test_refusals_are_bedrocks(gateway: RunningGateway) -> None:
    answer = posted(gateway, SONNET, invoked(), key="ABSKaws-key")
    said = refused(answer, 401, "AccessDeniedException", "virtual_key_required")
    assert "AWS_BEARER_TOKEN_BEDROCK" in said
    answer = posted(gateway, SONNET, invoked(), key="sk-bf-" + "x" * 40)
    refused(answer, 401, "AccessDeniedException", "virtual_key_not_found")
    answer = posted(gateway, SONNET, invoked(), "invoke-with-response-stream", key=POOR)
    said = refused(answer, 402, "ServiceQuotaExceededException", "budget_exceeded")
    assert "budget of virtual key 'poor'" in said
    answer = posted(gateway, SONNET, invoked(), key=OFF)  # at a 403 Claude Code would ask on
    said = refused(answer, 400, "AccessDeniedException", "virtual_key_blocked")
    assert "'off' is disabled" in said
    with sdk(gateway, POOR) as client, pytest.raises(anthropic.APIStatusError, match="'poor'"):
        client.messages.create(**message(model=SONNET))
    unknown = PROFILE.replace("a1b2c3", "other")
    answer = posted(gateway, unknown, invoked())
    said = refused(answer, 404, "ResourceNotFoundException", "model_not_found")
    assert unknown in said
    answer = posted(gateway, SONNET, b"{")
    refused(answer, 400, "ValidationException", "invalid_request")
    answer = posted(gateway, SONNET, {"messages": []})
    assert "max_tokens" in refused(answer, 400, "ValidationException", "invalid_request")
    answer = posted(gateway, SONNET, invoked(), x_amzn_bedrock_guardrailidentifier="g-1")
    assert "guardrail" in refused(answer, 400, "ValidationException", "invalid_request")
    answer = posted(gateway, SONNET, invoked(), "converse")
    refused(answer, 404, "ResourceNotFoundException", "not_found")
    path = f"{gateway.url}/bedrock/model/{SONNET}/invoke"
    refused(httpx.get(path), 405, "ValidationException", "method_not_allowed")


def test_tokens_are_counted_for_nothing(gateway: RunningGateway, mock: RunningMock) -> None:
    before = gateway.settled()
    body = b64encode(json.dumps(invoked(temperature=1)).encode()).decode()
    answer = posted(gateway, SONNET, {"input": {"invokeModel": {"body": body}}}, "count-tokens")
    assert answer.json().keys() == {"inputTokens"}
    _, told = sent(mock)
    assert told.keys() == {"model", "messages"}
    assert gateway.settled() == before
    answer = posted(gateway, SONNET, {"input": {"converse": {}}}, "count-tokens")
    assert "invokeModel" in refused(answer, 400, "ValidationException", "invalid_request")


def test_errors_of_the_host_are_told_as_bedrocks(tmp_path: Path) -> None:
    mock = RunningMock(tmp_path, "--fail", "429")
    gateway = RunningGateway(tmp_path / "g", config(mock.url))
    try:
        answer = posted(gateway, SONNET, invoked())
        assert answer.status_code == 429
        assert answer.headers["x-amzn-errortype"] == "ThrottlingException"
        assert answer.json().keys() == {"message"}
        assert int(answer.headers["content-length"]) == len(answer.content)
        assert gateway.settled() == 0
    finally:
        gateway.stop()
        mock.stop()


@pytest.mark.parametrize("model", [SONNET, PROFILE])
def test_a_stream_that_the_host_cuts_ends_with_an_exception(model: str, tmp_path: Path) -> None:
    mock = RunningMock(tmp_path, "--cut-after", "3", "--chunks", "9", "--output-tokens", "300")
    gateway = RunningGateway(tmp_path / "g", config(mock.url))
    try:
        answer = posted(gateway, model, invoked(), "invoke-with-response-stream")
        assert answer.status_code == 200
        told = frames(answer.content)
        assert told[0]["type"] == "message_start"
        kind, said = told[-1]
        assert kind == "internalServerException" and said.endswith("Try again.")
        assert gateway.settled() > 0
    finally:
        gateway.stop()
        mock.stop()


@contextmanager
def slow(folder: Path, chunks: int) -> Iterator[RunningGateway]:
    """A gateway whose host says its next word after 0.7 s, and then another."""
    options = ("--chunks", str(chunks), "--chunk-interval-ms", "700", "--output-tokens", "900")
    mock = RunningMock(folder, *options)
    settings = {**config(mock.url), "server": {"ping_interval_s": 0.2}}
    gateway = RunningGateway(folder / "g", settings)
    try:
        yield gateway
    finally:
        gateway.stop()
        mock.stop()


def test_a_silent_host_is_bridged(tmp_path: Path) -> None:
    with slow(tmp_path, 3) as gateway:
        answer = posted(gateway, SONNET, invoked(), "invoke-with-response-stream")
        told = [one["type"] for one in frames(answer.content)]
        assert told.count("ping") > 1 and told[-1] == "message_stop"
        with sdk(gateway) as client, client.messages.stream(**message(model=SONNET)) as stream:
            assert stream.get_final_text()


def test_a_revoked_key_ends_its_stream(tmp_path: Path) -> None:
    head = {"authorization": f"Bearer {KEY}"}
    with slow(tmp_path, 60) as gateway:
        path = f"{gateway.url}/bedrock/model/{SONNET}/invoke-with-response-stream"
        with httpx.stream("POST", path, json=invoked(), headers=head, timeout=30) as cut:
            pieces = cut.iter_raw()
            received = next(pieces)
            gateway.command("keys", "revoke", "alice-dev")
            received += b"".join(pieces)
        kind, said = frames(received)[-1]
        assert kind == "validationException" and "revoked" in said
