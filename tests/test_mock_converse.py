"""The mock provider's Converse, as AWS's own client meets it: its answers, and what it refuses."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from botocore.config import Config
from botocore.exceptions import ClientError
from botocore.session import Session

from bifrost.mock import MockOptions, MockServer, running
from tests.mock_client import account

NOVA, LLAMA, CLAUDE = "amazon.nova-pro-v1:0", "meta.llama4-scout-v1:0", "anthropic.claude-x"
HI = [{"role": "user", "content": [{"text": "Hi"}]}]
SCHEMA: dict[str, Any] = {"type": "object", "properties": {"command": {"type": "string"}}}
SHELL = {"toolSpec": {"name": "bash", "inputSchema": {"json": SCHEMA}}}
USE = {"toolUse": {"toolUseId": "c1", "name": "bash", "input": {}}}
RESULT = {"toolResult": {"toolUseId": "c1", "content": [{"text": "ok"}]}}
POINT = {"cachePoint": {"type": "default"}}
PDF = {"document": {"format": "pdf", "name": "a", "source": {"bytes": b"x"}}}


@pytest.fixture(scope="module")
def server() -> Iterator[MockServer]:
    with running(MockOptions(script="tool", input_tokens=70, output_tokens=30)) as found:
        yield found


@pytest.fixture(scope="module")
def client(server: MockServer) -> Iterator[Any]:
    found = Session().create_client(
        "bedrock-runtime", region_name="us-east-1", endpoint_url=f"http://127.0.0.1:{server.port}",
        aws_access_key_id="AK", aws_secret_access_key="SK",
        config=Config(retries={"max_attempts": 0}, proxies={}),
    )  # fmt: skip
    yield found
    found.close()


def test_an_answer_and_its_account(server: MockServer, client: Any) -> None:
    told = client.converse(modelId=NOVA, messages=HI, inferenceConfig={"maxTokens": 30})
    assert told["output"]["message"]["content"][0]["text"]
    assert told["stopReason"] == "max_tokens"
    assert (told["usage"]["inputTokens"], told["usage"]["totalTokens"]) == (70, 100)
    [row] = [row for row in account(server)["models"] if row["model"] == NOVA]
    assert row["served"]["output_tokens"] == 30


def test_a_tool_in_a_stream(client: Any) -> None:
    told = client.converse_stream(modelId=NOVA, messages=HI, toolConfig={"tools": [SHELL]})
    kinds, said = [], ""
    for event in told["stream"]:
        kinds.append(next(iter(event)))
        said += (
            event.get("contentBlockDelta", {}).get("delta", {}).get("toolUse", {}).get("input", "")
        )
    assert kinds[:2] == ["messageStart", "contentBlockStart"]
    assert kinds[-3:] == ["contentBlockStop", "messageStop", "metadata"]
    assert "command" in said
    turns = [*HI, {"role": "assistant", "content": [USE]}, {"role": "user", "content": [RESULT]}]
    whole = client.converse(modelId=NOVA, messages=turns, toolConfig={"tools": [SHELL]})
    assert "<<<ok>>>" in whole["output"]["message"]["content"][0]["text"]


def user(*content: Any) -> dict[str, Any]:
    return {"role": "user", "content": list(content)}


def assistant(*content: Any) -> dict[str, Any]:
    return {"role": "assistant", "content": list(content)}


TOOLS = {"toolConfig": {"tools": [SHELL]}}
FORCED = {"toolConfig": {"tools": [SHELL], "toolChoice": {"any": {}}}}
DEFINED = {"toolSpec": {"name": "b", "inputSchema": {"json": SCHEMA | {"$defs": {}}}}}


@pytest.mark.parametrize(
    ("model", "turns", "more", "sentence"),
    [
        (NOVA, [], {}, "start with a user message"),
        (NOVA, [assistant({"text": "a"})], {}, "start with a user message"),
        (NOVA, [*HI, assistant({"text": "a"})], {}, "end with a user message"),
        (NOVA, [*HI, *HI], {}, "alternate"),
        (NOVA, [user()], {}, "is empty"),
        (NOVA, [user({"text": " "})], {}, "is blank"),
        (NOVA, [*HI, assistant(USE), user(RESULT)], {}, "toolConfig field must be defined"),
        (NOVA, [*HI, assistant(USE), *HI], TOOLS, "Expected toolResult blocks"),
        (NOVA, [user(RESULT)], TOOLS, "exceeds the number of toolUse"),
        (NOVA, HI, {"toolConfig": {"tools": [SHELL, POINT]}}, r"extraneous key \[cachePoint\]"),
        (NOVA, HI, {"toolConfig": {"tools": [DEFINED]}}, r"extraneous key \[\$defs\]"),
        (NOVA, HI, {"toolConfig": {"tools": [SHELL, SHELL]}}, "same name"),
        (NOVA, [user(PDF)], {}, "with a text beside it"),
        (NOVA, [user(PDF, PDF, {"text": "a"})], {}, "different names"),
        (LLAMA, [user({"text": "a"}, POINT)], {}, "did not allow prompt caching"),
        (LLAMA, HI, FORCED, "doesn't support the toolConfig.toolChoice.any"),
    ],
)
def test_what_the_service_refuses(
    client: Any, model: str, turns: list[Any], more: dict[str, Any], sentence: str
) -> None:
    with pytest.raises(ClientError, match=sentence) as refused:
        client.converse(modelId=model, messages=turns, **more)
    assert refused.value.response["Error"]["Code"] == "ValidationException"
    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 400


def test_a_stream_that_fails(server: MockServer, client: Any) -> None:
    def steer(request: Any, **_: Any) -> None:
        request.headers["x-mock-error-event"] = "1"

    client.meta.events.register("before-send.bedrock-runtime", steer)
    try:
        told = client.converse_stream(modelId=NOVA, messages=HI)
        with pytest.raises(ClientError, match="serviceUnavailableException"):
            list(told["stream"])
    finally:
        client.meta.events.unregister("before-send.bedrock-runtime", steer)


def test_tokens_are_counted_for_foundation_models(client: Any) -> None:
    asked = {"converse": {"messages": HI}}
    assert client.count_tokens(modelId=NOVA, input=asked)["inputTokens"] == 70
    with pytest.raises(ClientError, match="doesn't support counting tokens"):
        client.count_tokens(modelId=LLAMA, input=asked)
