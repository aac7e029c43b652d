"""Gemini clients through the gateway: Google's SDK on Claude and on hosts of its own dialect."""

from __future__ import annotations

import base64
import json
from collections.abc import Iterator
from contextlib import contextmanager
from decimal import Decimal
from pathlib import Path
from typing import Any

import httpx
import pydantic
import pytest
from google import genai
from google.genai import errors, types

from bifrost.doors.gemini import GeminiDoor
from bifrost.errors import RequestLimited
from tests.gemini_host import SECRET, GeminiHost, chunk
from tests.running import KEY, RunningGateway, RunningMock, bearer, configuration

INPUT, OUTPUT = 1_234, 321
GEMINI, CLAUDE = "gemini-2.5-flash", "claude-sonnet-4-5"
COSTS = {  # USD, at the catalogue's prices
    GEMINI: Decimal(INPUT * 300 + OUTPUT * 2_500) / 10**9,
    CLAUDE: Decimal(INPUT * 3_000 + OUTPUT * 15_000) / 10**9,
}
SHELL = types.Tool(
    function_declarations=[
        types.FunctionDeclaration(
            name="bash",
            parameters=types.Schema(
                type=types.Type.OBJECT,
                properties={"command": types.Schema(type=types.Type.STRING)},
            ),
        )
    ]
)


def both(upstream: str, gemini: str | None = None, **key: Any) -> dict[str, Any]:
    """A host of Google's and one of Anthropic's."""
    config = configuration(upstream, **key)
    config["providers"]["gemini"] = {
        "type": "gemini",
        "keys": [{"name": "main", "value": SECRET}],
        "network": {"base_url": f"{gemini or upstream}/v1beta"},
    }
    return config


@pytest.fixture(scope="module")
def mock(tmp_path_factory: pytest.TempPathFactory) -> Iterator[RunningMock]:
    options = ("--record-bodies", "--input-tokens", str(INPUT), "--output-tokens", str(OUTPUT))
    running = RunningMock(tmp_path_factory.mktemp("mock"), *options, "--chunks", "5")
    yield running
    running.stop()


@pytest.fixture
def gateway(mock: RunningMock, tmp_path: Path) -> Iterator[RunningGateway]:
    running = RunningGateway(tmp_path, both(mock.url))
    yield running
    running.stop()


@contextmanager
def sdk(gateway: RunningGateway, version: str = "v1beta") -> Iterator[genai.Client]:
    options = types.HttpOptions(base_url=f"{gateway.url}/genai", api_version=version)
    client = genai.Client(api_key=KEY, http_options=options)
    try:
        yield client
    finally:
        client.close()


def asked(*parts: Any, **more: Any) -> dict[str, Any]:
    return {"contents": [{"role": "user", "parts": [*({"text": "Hi"},), *parts]}], **more}


def posted(
    gateway: RunningGateway,
    body: Any,
    model: str = GEMINI,
    method: str = "generateContent",
    query: str = "",
) -> httpx.Response:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    url = f"{gateway.url}/genai/v1beta/models/{model}:{method}{query}"
    return httpx.post(url, content=content, headers={"x-goog-api-key": KEY}, timeout=30)


def told(mock: RunningMock) -> Any:
    """The body of the last request that the host got."""
    return json.loads(base64.b64decode(mock.requests()[0]["body"]))


@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_the_sdk_gets_an_answer_from_either_host_and_every_level_pays(
    gateway: RunningGateway, model: str
) -> None:
    with sdk(gateway) as client:
        answer = client.models.generate_content(model=model, contents="Say hello.")
    used = answer.usage_metadata
    assert answer.text and answer.candidates and used is not None
    assert answer.candidates[0].finish_reason == types.FinishReason.STOP
    assert (used.prompt_token_count, used.candidates_token_count) == (INPUT, OUTPUT)
    assert used.total_token_count == INPUT + OUTPUT
    assert gateway.settled() == COSTS[model]


@pytest.mark.parametrize("version", ["v1", "v1beta"])
@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_the_sdk_gets_a_stream(gateway: RunningGateway, model: str, version: str) -> None:
    with sdk(gateway, version) as client:
        chunks = list(client.models.generate_content_stream(model=model, contents="Say hello."))
        whole = client.models.generate_content(model=model, contents="Say hello.").text
    assert len(chunks) >= 5
    assert "".join(one.text or "" for one in chunks) == whole
    used = chunks[-1].usage_metadata
    assert used is not None and used.total_token_count == INPUT + OUTPUT
    assert gateway.settled() == 2 * COSTS[model]


@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_without_sse_a_stream_is_one_array(gateway: RunningGateway, model: str) -> None:
    answer = posted(gateway, asked(), model, "streamGenerateContent")
    chunks = answer.json()
    assert answer.headers["content-type"] == "application/json"
    assert len(chunks) >= 5
    assert chunks[-1]["candidates"][0]["finishReason"] == "STOP"
    assert chunks[-1]["usageMetadata"]["totalTokenCount"] == INPUT + OUTPUT
    assert gateway.settled() == COSTS[model]


@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_a_tool_is_called_in_a_chat_of_the_sdks(tmp_path: Path, model: str) -> None:
    mock = RunningMock(tmp_path, "--script", "tool")
    gateway = RunningGateway(tmp_path / "g", both(mock.url))
    try:
        with sdk(gateway) as client:
            config = types.GenerateContentConfig(tools=[SHELL], max_output_tokens=900)
            chat = client.chats.create(model=model, config=config)
            first = list(chat.send_message_stream("Go."))
            [call] = [one for chunk in first for one in chunk.function_calls or ()]
            assert call.name == "bash" and call.args and call.args["command"]
            part = types.Part.from_function_response(name="bash", response={"output": "sunny"})
            second = chat.send_message(part)
            assert "sunny" in (second.text or "")
    finally:
        gateway.stop()
        mock.stop()


def test_a_function_of_python_is_called_by_the_sdk_itself(tmp_path: Path) -> None:
    mock = RunningMock(tmp_path, "--script", "tool")
    gateway = RunningGateway(tmp_path / "g", both(mock.url))
    called = []

    def bash(command: str) -> str:
        """Runs a command."""
        called.append(command)
        return "sunny"

    try:
        with sdk(gateway) as client:
            config = types.GenerateContentConfig(tools=[bash])
            answer = client.models.generate_content(model=CLAUDE, contents="Go.", config=config)
        assert called and "sunny" in (answer.text or "")
    finally:
        gateway.stop()
        mock.stop()


def test_an_answer_of_a_form_is_read_by_the_sdk(gateway: RunningGateway, mock: RunningMock) -> None:
    class City(pydantic.BaseModel):
        name: str
        inhabitants: int

    class Country(pydantic.BaseModel):
        capital: City
        cities: list[City]

    config = types.GenerateContentConfig(
        response_mime_type="application/json", response_schema=Country
    )
    with sdk(gateway) as client:
        answer = client.models.generate_content(model=CLAUDE, contents="Go.", config=config)
    assert answer.parsed == Country(capital=City(name="mock", inhabitants=1), cities=[])
    schema = told(mock)["output_config"]["format"]["schema"]
    assert schema["properties"]["cities"]["items"]["additionalProperties"] is False


@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_a_slow_stream_shows_signs_of_life_that_the_sdk_passes_over(
    tmp_path: Path, model: str
) -> None:
    mock = RunningMock(tmp_path, "--chunks", "3", "--chunk-interval-ms", "400")
    config = both(mock.url) | {"server": {"ping_interval_s": 0.1}}
    gateway = RunningGateway(tmp_path / "g", config)
    try:
        answer = posted(gateway, asked(), model, "streamGenerateContent", "?alt=sse")
        assert "\n\n\n\n" in answer.text.replace("\r\n", "\n")
        assert ": ping" not in answer.text
        assert posted(gateway, asked(), model, "streamGenerateContent").json()
        with sdk(gateway) as client:
            chunks = list(client.models.generate_content_stream(model=model, contents="Hi"))
        assert len(chunks) >= 3 and chunks[-1].usage_metadata
    finally:
        gateway.stop()
        mock.stop()


def test_bytes_pass_to_a_host_of_the_same_dialect(tmp_path: Path) -> None:
    """But for the output limit, which is the budget's; what the host says passes too."""
    thought = chunk({"text": "Hm.", "thought": True}, prompt=100)
    call = {"functionCall": {"name": "bash", "args": {}}, "thoughtSignature": "c2ln"}
    used = {"prompt": 1_000, "cachedContent": 400, "candidates": 10, "thoughts": 30, "total": 1_040}
    last = chunk(call, ends="STOP", **used)
    host = GeminiHost([thought, last])
    gateway = RunningGateway(tmp_path, both(host.url, host.url))
    try:
        body = asked(call, safetySettings=[{"a": 1.50}], generationConfig={"seed": 7})
        answer = posted(gateway, body, "gemini-2.5-flash", "streamGenerateContent", "?alt=sse")
        assert answer.status_code == 200, answer.text
        lines = [line for line in answer.text.split("\r\n\r\n") if line]
        assert [json.loads(line[6:]) for line in lines] == [thought, last]
        assert "x-goog-request-id" not in answer.headers
        path, sent = host.seen[0]
        assert path == "/v1beta/models/gemini-2.5-flash:streamGenerateContent?alt=sse"
        limit = int(answer.headers["x-bf-output-limit"])
        config = {"seed": 7, "maxOutputTokens": limit}
        assert json.loads(sent) == {**body, "generationConfig": config}
        cost = Decimal(600 * 300 + 400 * 30 + 40 * 2_500) / 10**9
        assert gateway.settled() == cost
        whole = posted(gateway, body | {"generationConfig": {"maxOutputTokens": 77}})
        assert whole.json() == last
        assert json.loads(host.seen[1][1])["generationConfig"] == {"maxOutputTokens": 77}
        assert gateway.settled() == 2 * cost
    finally:
        gateway.stop()
        host.close()


def test_snake_case_and_single_objects_are_governed_alike(
    gateway: RunningGateway, mock: RunningMock
) -> None:
    body = {
        "contents": {"parts": {"text": "Hi"}},
        "system_instruction": {"parts": {"text": "Be brief."}},
        "generation_config": {"max_output_tokens": 50, "stop_sequences": ["END"]},
    }
    assert posted(gateway, body, CLAUDE).status_code == 200
    sent = told(mock)
    assert (sent["max_tokens"], sent["stop_sequences"]) == (50, ["END"])
    assert sent["system"][0]["text"] == "Be brief."
    assert posted(gateway, body).status_code == 200
    config = told(mock)["generationConfig"]
    assert config == {"maxOutputTokens": 50, "stopSequences": ["END"]}


@pytest.mark.parametrize(
    ("body", "status", "says"),
    [
        (b"{", 400, "not valid"),
        (b"[]", 400, "not valid"),
        ({}, 400, "contents"),
        (asked(generationConfig={"maxOutputTokens": "9"}), 400, "max_tokens"),
        (asked(generationConfig={"candidateCount": 2}), 400, "candidateCount"),
        (asked(generation_config={"candidate_count": 2}), 400, "candidateCount"),
        (asked(generation_config={}, generationConfig={}), 400, "given twice"),
        (asked(generationConfig={"responseModalities": ["AUDIO"]}), 400, "responseModalities"),
        (asked(generationConfig={"responseFormat": {"image": {}}}), 400, "responseFormat"),
        (asked(generationConfig={"speechConfig": {"a": 1}}), 400, "speechConfig"),
        (asked(tools=[{"googleSearch": {}}]), 400, "googleSearch"),
        (asked(tools=[{"code_execution": {}}]), 400, "codeExecution"),
        (asked(tools={"urlContext": {}}), 400, "urlContext"),
        (asked(cachedContent="cachedContents/1"), 400, "cachedContent"),
        (asked(serviceTier="batch"), 400, "serviceTier"),
        (asked({"inlineData": {"mimeType": "audio/wav", "data": "AA=="}}), 400, "audio"),
        ({"contents": [7]}, 400, r"contents[0]: expected an object"),
    ],
)
@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_what_cannot_be_served_is_refused_in_googles_words(
    gateway: RunningGateway, model: str, body: Any, status: int, says: str
) -> None:
    answer = posted(gateway, body, model)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (status, status)
    assert error["status"] == "INVALID_ARGUMENT" and says in error["message"]
    assert answer.headers["x-should-retry"] == "false"
    assert gateway.settled() == 0


def test_what_a_count_holds_does_not_speak_for_an_answer(gateway: RunningGateway) -> None:
    inner = asked()
    hidden = asked(tools=[{"googleSearch": {}}], generateContentRequest=inner)
    assert posted(gateway, hidden).status_code == 400


def test_keys_models_and_paths_that_are_not_there(gateway: RunningGateway) -> None:
    url = f"{gateway.url}/genai/v1beta/models"
    for path, headers, status, kind in (
        (f"{url}/{CLAUDE}:generateContent", {}, 401, "UNAUTHENTICATED"),
        (f"{url}/gpt-none:generateContent", bearer(), 404, "NOT_FOUND"),
        (f"{url}/{CLAUDE}:predict", bearer(), 404, "NOT_FOUND"),
        (f"{gateway.url}/genai/v1beta/files", bearer(), 404, "NOT_FOUND"),
    ):
        error = httpx.post(path, json=asked(), headers=headers).json()["error"]
        assert (error["code"], error["status"]) == (status, kind)
    wrong = httpx.get(f"{url}/{CLAUDE}:generateContent", headers=bearer())
    assert wrong.status_code == 405


@pytest.mark.parametrize(
    ("headers", "query"),
    [
        ({"x-goog-api-key": KEY}, ""),
        ({"authorization": f"Bearer {KEY}"}, ""),
        ({"x-bf-vk": KEY, "x-goog-api-key": "placeholder"}, ""),
        ({"authorization": "Bearer ya29.of-google"}, f"?key={KEY}"),
        ({}, f"?alt=json&key={KEY}"),
    ],
)
def test_where_a_key_may_stand(
    gateway: RunningGateway, mock: RunningMock, headers: dict[str, str], query: str
) -> None:
    url = f"{gateway.url}/genai/v1beta/models/{GEMINI}:generateContent{query}"
    assert httpx.post(url, json=asked(), headers=headers).status_code == 200
    assert KEY not in json.dumps(mock.requests())


def test_a_spent_budget_is_said_as_gemini_cli_shows_it(mock: RunningMock, tmp_path: Path) -> None:
    poor = [{"max_limit": "0.000001", "reset_duration": "1m"}]
    gateway = RunningGateway(tmp_path, both(mock.url, budgets=poor))
    try:
        answer = posted(gateway, asked(), CLAUDE, "streamGenerateContent", "?alt=sse")
        error = answer.json()["error"]
        assert (answer.status_code, error["status"]) == (429, "RESOURCE_EXHAUSTED")
        [detail] = error["details"]
        assert detail["@type"] == "type.googleapis.com/google.rpc.RetryInfo"
        assert 301 <= int(detail["retryDelay"].removesuffix("s")) <= 400
        assert answer.headers["x-should-retry"] == "false"
        with sdk(gateway) as client, pytest.raises(errors.ClientError, match="budget") as caught:
            client.models.generate_content(model=CLAUDE, contents="Hi")
        assert (caught.value.code, caught.value.status) == (429, "RESOURCE_EXHAUSTED")
    finally:
        gateway.stop()


@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_a_small_budget_lowers_the_limit(mock: RunningMock, tmp_path: Path, model: str) -> None:
    poor = [{"max_limit": "0.01" if model == GEMINI else "0.05", "reset_duration": "1Y"}]
    gateway = RunningGateway(tmp_path, both(mock.url, budgets=poor))
    try:
        answer = posted(gateway, asked(generationConfig={"maxOutputTokens": 60_000}), model)
        assert answer.status_code == 200, answer.text
        limit = int(answer.headers["x-bf-output-limit"])
        assert 1_024 <= limit < 60_000
        sent = told(mock)
        own = sent.get("max_tokens") or sent["generationConfig"]["maxOutputTokens"]
        assert own == limit
        elsewhere = {"fileUri": "https://example.com/a.png", "mimeType": "image/png"}
        for large in (asked({"fileData": elsewhere}), asked(continuationToken="AA==")):
            full = posted(gateway, large, model)
            assert full.status_code == 429, "what is not in the body may fill the window"
    finally:
        gateway.stop()


@pytest.mark.parametrize(("wait", "delay"), [(7, 7), (60, 60), (90, 301), (400, 400)])
def test_gemini_cli_asks_again_after_a_short_wait_only(wait: int, delay: int) -> None:
    refusal = RequestLimited("The limit is reached.", retry_after=wait)
    refusal.retryable = wait <= 60
    status, headers, body = GeminiDoor.__new__(GeminiDoor).answer(refusal, "r")
    [detail] = json.loads(body)["error"]["details"]
    assert (status, detail["retryDelay"]) == (429, f"{delay}s")
    assert dict(headers)[b"retry-after"] == str(delay).encode()
    assert dict(headers)[b"x-should-retry"] == (b"true" if wait <= 60 else b"false")


@pytest.mark.parametrize("form", ["sse", "array"])
@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
def test_a_stream_that_is_cut_is_told_and_paid(tmp_path: Path, model: str, form: str) -> None:
    mock = RunningMock(tmp_path, "--cut-after", "3", "--chunks", "9", "--output-tokens", "300")
    gateway = RunningGateway(tmp_path / "g", both(mock.url))
    try:
        if form == "sse":
            with sdk(gateway) as client, pytest.raises(errors.ServerError, match="Try again"):
                list(client.models.generate_content_stream(model=model, contents="Hi"))
        else:
            *_, last = posted(gateway, asked(), model, "streamGenerateContent").json()
            assert last["error"]["status"] == "UNAVAILABLE"
        assert gateway.settled() > 0
        assert gateway.command("logs")["outcome"] == "broken"
    finally:
        gateway.stop()
        mock.stop()


@pytest.mark.parametrize(("model", "status"), [(GEMINI, 429), (CLAUDE, 429), (CLAUDE, 529)])
def test_errors_of_the_host_reach_the_client(tmp_path: Path, model: str, status: int) -> None:
    mock = RunningMock(tmp_path, "--fail", str(status))
    gateway = RunningGateway(tmp_path / "g", both(mock.url))
    try:
        answer = posted(gateway, asked(), model, "streamGenerateContent", "?alt=sse")
        shown = 503 if status == 529 else status
        assert (answer.status_code, answer.json()["error"]["code"]) == (shown, shown)
        assert answer.json()["error"]["status"] in ("RESOURCE_EXHAUSTED", "UNAVAILABLE")
        assert gateway.settled() == 0
    finally:
        gateway.stop()
        mock.stop()


def test_pages_of_models(gateway: RunningGateway) -> None:
    url = f"{gateway.url}/genai/v1beta/models"
    first = httpx.get(url, params={"pageSize": "1"}, headers=bearer()).json()
    assert len(first["models"]) == 1
    token = first["nextPageToken"]
    rest = httpx.get(url, params={"pageToken": token}, headers=bearer()).json()
    assert "nextPageToken" not in rest and first["models"][0] not in rest["models"]
    for wrong in ({"pageSize": "-1"}, {"pageSize": "many"}, {"pageToken": "models/none"}):
        answer = httpx.get(url, params=wrong, headers=bearer())
        error = answer.json()["error"]
        assert (answer.status_code, error["status"]) == (400, "INVALID_ARGUMENT")
        assert next(iter(wrong)) in error["message"]


def test_models_are_listed_and_tokens_counted(gateway: RunningGateway) -> None:
    with sdk(gateway) as client:
        models = {model.name: model for model in client.models.list()}
        assert {f"models/{GEMINI}", f"models/{CLAUDE}"} <= models.keys()
        paged = [model.name for model in client.models.list(config={"page_size": 2})]
        assert paged == list(models) and len(paged) > 4
        one = client.models.get(model=CLAUDE)
        assert one.name == f"models/{CLAUDE}" and one.output_token_limit == 64_000
        with pytest.raises(errors.ClientError, match="gpt-none"):
            client.models.get(model="gpt-none")
        counted = client.models.count_tokens(model=CLAUDE, contents="word " * 1_000)
        assert 900 <= (counted.total_tokens or 0) <= 2_000
    assert gateway.settled() == 0
