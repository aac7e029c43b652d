"""Hosts of Chat Completions that want their reasoning back, or ids of their own form: agents that
call tools get on with each of them, also where a conversation began at Claude."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from typing import Any, NamedTuple

import anthropic
import httpx
import openai
import pytest
from google import genai
from google.genai import types

from bifrost.config.hosts import TABLE, Kind, Quirks
from bifrost.mock.manners import THOUGHT
from bifrost.translate.chat_history import FIELDS, suited
from bifrost.translate.translation import Traits
from tests.running import KEY, RunningGateway, RunningMock, bearer, configuration, message

HOSTS: dict[str, tuple[Kind, str]] = {  # whom the mock is like: type of provider, model
    "cerebras": ("cerebras", "gpt-oss-120b"),
    "deepseek": ("deepseek", "deepseek-v4-flash"),
    "groq": ("groq", "openai/gpt-oss-120b"),
    "mistral": ("mistral", "devstral-medium-latest"),
    "moonshot": ("moonshot", "kimi-k2.6"),
    "vllm": ("vllm", "MiniMaxAI/MiniMax-M2"),
}
BACK = {
    "cerebras": "reasoning", "deepseek": "reasoning_content", "moonshot": "reasoning_content",
    "vllm": "reasoning",
}  # fmt: skip
SCHEMA = {"type": "object", "properties": {"command": {"type": "string"}}, "required": ["command"]}
TOOL = {"name": "Bash", "description": "Runs a command.", "input_schema": SCHEMA}
ASKED = {"role": "user", "content": "List the files."}
AT_CLAUDE = [
    ASKED,
    {
        "role": "assistant",
        "content": [
            {"type": "thinking", "thinking": "", "signature": "Ep8CCkYI"},
            {"type": "tool_use", "id": "toolu_01A09q90qw90lq917835lq9", "name": "Bash",
             "input": {"command": "ls"}},
        ],
    },
    {
        "role": "user",
        "content": [{"type": "tool_result", "tool_use_id": "toolu_01A09q90qw90lq917835lq9",
                     "content": "README.md"}],
    },
    {"role": "assistant", "content": "There is a README.md."},
    {"role": "user", "content": "List them again."},
]  # fmt: skip


class Hosts(NamedTuple):
    gateway: RunningGateway
    mocks: dict[str, RunningMock]

    def told(self, like: str) -> list[dict[str, Any]]:
        """The messages of the last request to a host."""
        [asked] = self.mocks[like].requests()
        messages: list[dict[str, Any]] = json.loads(base64.b64decode(asked["body"]))["messages"]
        return messages


def provider(kind: str, url: str, **more: Any) -> dict[str, Any]:
    keys = [{"name": "main", "value": "sk-host"}]
    return {"type": kind, "api": "chat", "keys": keys, "network": {"base_url": f"{url}/v1"}, **more}


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hosts]:
    folder = tmp_path_factory.mktemp("hosts")
    options = ("--script", "tool", "--record-bodies", "--like")
    mocks = {}
    for like in HOSTS:
        (folder / like).mkdir()
        mocks[like] = RunningMock(folder / like, *options, like)
    config = configuration("http://127.0.0.1:9")
    config["providers"] = {like: provider(HOSTS[like][0], mocks[like].url) for like in HOSTS}
    # A host of another type that is like Moonshot, as its configuration says.
    quirks = {"reasoning_field": "reasoning_content", "reasoning_due": True}
    config["providers"]["own"] = provider("openai_compatible", mocks["moonshot"].url, quirks=quirks)
    config["models"] = {
        like: [{"provider": like, "model": model}] for like, (_, model) in HOSTS.items()
    } | {"own": [{"provider": "own", "model": "kimi"}]}
    gateway = RunningGateway(folder / "gateway", config)
    for name in ("vllm/MiniMaxAI/MiniMax-M2", "own/kimi"):
        gateway.command("prices", "set", name, "--input", "1", "--output", "2")
    yield Hosts(gateway, mocks)
    gateway.stop()
    for mock in mocks.values():
        mock.stop()


@pytest.fixture(params=[*HOSTS, "own"])
def like(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def host_of(like: str) -> str:
    return "moonshot" if like == "own" else like


@pytest.mark.parametrize("streamed", [True, False], ids=["streamed", "whole"])
def test_an_agent_calls_a_tool_and_goes_on(hosts: Hosts, like: str, streamed: bool) -> None:
    def answer(messages: Any) -> Any:
        asked = message(model=like, messages=messages, tools=[TOOL])
        with anthropic.Anthropic(
            base_url=hosts.gateway.url, auth_token=KEY, max_retries=0
        ) as client:
            if not streamed:
                return client.messages.create(**asked)
            with client.messages.stream(**asked) as stream:
                return stream.get_final_message()

    first = answer([ASKED])
    [call] = [block for block in first.content if block.type == "tool_use"]
    said = {"role": "assistant", "content": [block.to_dict() for block in first.content]}
    result = {"type": "tool_result", "tool_use_id": call.id, "content": "README.md"}
    last = answer([ASKED, said, {"role": "user", "content": [result]}])
    assert last.stop_reason == "end_turn" and last.content[-1].text
    told = hosts.told(host_of(like))
    assert [turn["role"] for turn in told] == ["user", "assistant", "tool"]
    field = BACK.get(host_of(like))
    assert not field or told[1][field] == THOUGHT
    assert told[1]["tool_calls"][0]["id"] == told[2]["tool_call_id"] == call.id


def test_a_conversation_of_claudes_goes_on(hosts: Hosts, like: str) -> None:
    asked = message(model=like, messages=AT_CLAUDE, tools=[TOOL])
    answer = httpx.post(f"{hosts.gateway.url}/v1/messages", json=asked, headers=bearer())
    assert answer.status_code == 200, answer.text
    told = hosts.told(host_of(like))
    [call] = told[1]["tool_calls"]
    assert call["id"] == told[2]["tool_call_id"]
    short = len(call["id"]) == 9 and call["id"].isalnum()
    assert short is (like == "mistral")
    due = like in ("deepseek", "moonshot", "own")  # what was never said is a space
    for turn in (told[1], told[3]):
        assert turn.get(BACK.get(host_of(like), "reasoning")) == (" " if due else None)
    again = httpx.post(f"{hosts.gateway.url}/v1/messages", json=asked, headers=bearer())
    assert again.status_code == 200 and hosts.told(host_of(like)) == told  # for the prompt cache


@pytest.mark.parametrize("theirs", ["reasoning_content", "reasoning"])
def test_a_chat_client_brings_what_another_host_said(hosts: Hosts, like: str, theirs: str) -> None:
    called = {"type": "function", "function": {"name": "Bash", "arguments": '{"command": "ls"}'}}
    messages: list[Any] = [
        {"role": "user", "content": "List the files.", "name": "alice"},
        {"role": "assistant", "content": None, theirs: "Hm.",
         "tool_calls": [{"id": "call_PTLP8xhu3uwZk4l3", **called}]},
        {"role": "tool", "tool_call_id": "call_PTLP8xhu3uwZk4l3", "content": "README.md"},
        {"role": "assistant", "content": "There is a README.md."},
        {"role": "user", "content": "List them again."},
    ]  # fmt: skip
    url = f"{hosts.gateway.url}/openai/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.create(model=like, messages=messages)
    assert answer.choices[0].finish_reason == "stop"
    host = host_of(like)
    told, field = hosts.told(host), BACK.get(host)
    found = [{one: turn[one] for one in FIELDS if one in turn} for turn in (told[1], told[3])]
    due = {field: " "} if host in ("deepseek", "moonshot") else {}
    assert found == [{field: "Hm."} if field else {}, due]
    calls = told[1].pop("tool_calls")
    assert calls[0]["function"] == called["function"]
    assert calls[0]["id"] == told[2].pop("tool_call_id")
    assert (calls[0]["id"] == "call_PTLP8xhu3uwZk4l3") is (like != "mistral")
    rest = [{k: v for k, v in turn.items() if k not in FIELDS} for turn in told]
    others = (*FIELDS, "tool_calls", "tool_call_id")
    assert rest == [{k: v for k, v in turn.items() if k not in others} for turn in messages]


def test_a_history_that_fits_keeps_its_bytes() -> None:
    fits = (
        b'[ {"role":"user", "content":"x"}, {"role":"assistant","reasoning_content":"Hm.",'
        b'"tool_calls":[{"id":"abcdefgh1"}]},{"role":"tool","tool_call_id":"abcdefgh1"}]'
    )
    known = Traits(reasoning_field="reasoning_content", reasoning_due=True, short_call_ids=True)
    for traits in (known, Traits()):
        assert suited(fits, traits) is fits
    unnamed = suited(b'[{"role":"assistant","content":1.0e2}]', known)
    assert unnamed == b'[{"role":"assistant","content":1.0e2}]'  # nothing is due without calls


def test_responses_clients_give_it_back(hosts: Hosts) -> None:
    tool: Any = {"type": "function", "name": "Bash", "parameters": SCHEMA, "strict": False}
    given: list[Any] = [{"role": "user", "content": "List the files."}]
    asked: Any = {"model": "moonshot", "tools": [tool], "store": False}
    url = f"{hosts.gateway.url}/openai/v1"
    with openai.OpenAI(base_url=url, api_key=KEY, max_retries=0) as client:
        first = client.responses.create(
            input=given, include=["reasoning.encrypted_content"], **asked
        )
        given += [item.to_dict() for item in first.output]
        [call] = [item for item in first.output if item.type == "function_call"]
        result: Any = {"type": "function_call_output", "call_id": call.call_id, "output": "ok"}
        last = client.responses.create(input=[*given, result], **asked)
    assert last.status == "completed" and last.output_text
    assert hosts.told("moonshot")[1]["reasoning_content"] == THOUGHT


def test_gemini_clients_give_it_back(hosts: Hosts) -> None:
    function = types.FunctionDeclaration(name="Bash", parameters_json_schema=SCHEMA)
    config = types.GenerateContentConfig(
        tools=[types.Tool(function_declarations=[function])],
        automatic_function_calling=types.AutomaticFunctionCallingConfig(disable=True),
    )
    contents: list[Any] = [types.Content(role="user", parts=[types.Part(text="List the files.")])]
    options = types.HttpOptions(base_url=f"{hosts.gateway.url}/genai")
    with genai.Client(api_key=KEY, http_options=options) as client:
        first = client.models.generate_content(model="moonshot", contents=contents, config=config)
        assert first.candidates is not None and first.function_calls
        result = types.Part(
            function_response=types.FunctionResponse(
                id=first.function_calls[0].id, name="Bash", response={"output": "README.md"}
            )
        )
        contents += [first.candidates[0].content, types.Content(role="user", parts=[result])]
        last = client.models.generate_content(model="moonshot", contents=contents, config=config)
    assert last.text
    assert hosts.told("moonshot")[1]["reasoning_content"] == THOUGHT


def test_the_configuration_goes_before_the_type() -> None:
    usual = TABLE["moonshot"].quirks
    assert Quirks().over(usual) == usual
    own = Quirks(reasoning_field="none", reasoning_due=False, short_call_ids=True)
    assert own.over(usual) == own
    assert Quirks(streams_only=True).over(usual).streams_only
