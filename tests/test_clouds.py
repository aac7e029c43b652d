"""Clients on Claude and others in the clouds: governed, metered, proven to strict hosts."""

from __future__ import annotations

import json
from base64 import b64encode
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import httpx
import msgspec
import openai
import pytest

from bifrost.audit import events
from bifrost.audit.log import Reader
from bifrost.metering.catalogue import Catalogue
from bifrost.metering.usage import Usage
from bifrost.usage.reprice import charge, used_of
from tests.cloudhosts import INPUT, OUTPUT, Aws, Bedrock, Foundry, Mantle, Vertex
from tests.commands import bifrost, until
from tests.converse_oracle import checked
from tests.issuer import Asked, Issuer, rsa_key
from tests.running import KEY, RunningGateway, bearer, configuration, message

_, PEM = rsa_key()
CLAUDE_CODE = Path(__file__).parent / "samples" / "claude-2.1.330-print-turn1.json"
BETAS = (
    "claude-code-20250219,interleaved-thinking-2025-05-14,context-management-2025-06-27,"
    "per-turn-control-2026-07-01,mid-conversation-tool-changes-2026-07-01,"
    "thinking-token-count-2026-05-13,advanced-tool-use-2025-11-20,effort-2025-11-24"
)


class Place:
    """A strict host and a gateway in front of it."""

    def __init__(self, folder: Path, host: Any, provider: dict[str, Any], **models: str) -> None:
        self.host = host
        self.issuer = Issuer(host)
        text = json.dumps(provider).replace("LOOPBACK", self.issuer.url)
        config = configuration("http://127.0.0.1:9")
        config["providers"] = {"cloud": json.loads(text)}
        config["models"] = {
            name: [{"provider": "cloud", "model": model}] for name, model in models.items()
        }
        folder.mkdir(exist_ok=True)
        self.gateway = RunningGateway(folder, config)
        self.url = self.gateway.url

    def ask(self, body: Any, path: str = "/v1/messages", **headers: str) -> httpx.Response:
        more = {name.replace("_", "-"): value for name, value in headers.items()}
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        return httpx.post(self.url + path, content=data, headers=bearer() | more, timeout=30)

    def asked(self, *parts: str) -> list[Asked]:
        """What the host was asked, at paths with these parts."""
        return [one for one in self.issuer.asked if any(part in one.target for part in parts)]

    def spent(self) -> Decimal:
        until(lambda: {one[1] for one in self.gateway.spent().values()} == {"0"})
        return Decimal(self.gateway.spent()["keys:alice-dev"][0])

    def close(self) -> None:
        self.gateway.stop()
        self.issuer.__exit__()


def google(issuer: str) -> str:
    return json.dumps({
        "type": "service_account", "client_email": "robot@my-proj.iam.gserviceaccount.com",
        "private_key": PEM, "private_key_id": "k", "token_uri": f"{issuer}/token",
    })  # fmt: skip


VERTEX = {
    "type": "vertex", "project": "my-proj", "region": "us-east5",
    "credentials_json": google("LOOPBACK"), "network": {"base_url": "LOOPBACK/v1"},
}  # fmt: skip
NAMES = {
    "claude-opus-5-5": "claude-opus-5-5", "claude-denied": "claude-denied",
    "claude-opus-4-5": "claude-opus-4-5@20251101", "gemini": "gemini-2.5-flash",
}  # fmt: skip


@pytest.fixture(scope="module")
def vertex(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Place]:
    place = Place(tmp_path_factory.mktemp("vertex"), Vertex(), VERTEX, **NAMES)
    yield place
    place.close()


def served(place: Place) -> list[events.ModelAccess]:
    """The requests in the audit log."""
    found = (events.decode(raw) for _, raw in Reader(place.gateway.data_dir).read(0, 100_000))
    return [event for event in found if isinstance(event, events.ModelAccess)]


def cost(input_usd: str, output_usd: str, factor: str = "1") -> Decimal:
    """USD of one answer, at prices per million tokens."""
    whole = INPUT * Decimal(input_usd) + OUTPUT * Decimal(output_usd)
    return whole * Decimal(factor) / 1_000_000


def test_claude_on_vertex_gets_the_bytes_of_claude_code(vertex: Place) -> None:
    body = CLAUDE_CODE.read_bytes()
    before = vertex.spent()
    answer = vertex.ask(body, "/v1/messages?beta=true", anthropic_beta=BETAS)
    assert answer.status_code == 200, answer.text
    assert answer.headers["content-type"].startswith("text/event-stream")
    assert answer.content == Vertex.__call__(vertex.host, vertex.asked("claude-opus-5-5")[-1])[1]
    sent = vertex.asked("claude-opus-5-5:streamRawPredict")[-1]
    assert sent.headers["anthropic-beta"] == BETAS.replace(
        "mid-conversation-tool-changes-2026-07-01,", ""
    ).replace("advanced-tool-use-2025-11-20", "tool-search-tool-2025-10-19")
    assert "anthropic-version" not in sent.headers and "x-api-key" not in sent.headers
    asked, told = json.loads(body), json.loads(sent.body)
    assert told.pop("anthropic_version") == "vertex-2023-10-16"
    assert asked.pop("model") == "claude-opus-5-5"
    billing, *system = asked["system"]
    assert billing["text"].startswith("x-anthropic-billing-header")
    assert asked["messages"][-1].pop("output_config")  # needs a beta that Vertex does not know
    if "content" not in asked["messages"][-1]:
        del asked["messages"][-1]
    assert told == asked | {"system": system}
    raw = msgspec.json.Decoder(dict[str, msgspec.Raw])
    for name in ("tools", "thinking", "metadata"):  # their very bytes
        assert bytes(raw.decode(body)[name]) == bytes(raw.decode(sent.body)[name])
    assert vertex.spent() - before == cost("4", "20", "1.1")  # outside of global
    until(lambda: served(vertex))
    event = served(vertex)[-1]
    assert event.geo == "regional" and event.reserved >= event.cost
    assert charge(event, used_of(event) or Usage(), Catalogue.load()) == event.cost
    row = vertex.gateway.command("logs", "--limit", "1")
    assert (row["provider"], row["model"]) == ("cloud", "claude-opus-5-5")


def test_the_sdk_reads_whole_answers_and_streams(vertex: Place) -> None:
    with anthropic.Anthropic(base_url=vertex.url, auth_token=KEY, max_retries=0) as client:
        whole = client.messages.create(**message(model="claude-opus-4-5"))
        with client.messages.stream(**message(model="claude-opus-4-5")) as stream:
            final = stream.get_final_message()
    assert [one.content[0].text for one in (whole, final)] == ["Hello there"] * 2
    assert final.usage.output_tokens == OUTPUT
    paths = [one.path.rpartition("/")[2] for one in vertex.asked("claude-opus-4-5")]
    assert paths == [
        "claude-opus-4-5@20251101:rawPredict", "claude-opus-4-5@20251101:streamRawPredict"
    ]  # fmt: skip


def test_tokens_are_counted_by_vertex(vertex: Place) -> None:
    asked = {k: v for k, v in message(model="claude-opus-4-5").items() if k != "max_tokens"}
    answer = vertex.ask(asked, "/v1/messages/count_tokens", anthropic_beta=BETAS)
    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 77})
    sent = json.loads(vertex.asked("count-tokens:rawPredict")[-1].body)
    assert sent["model"] == "claude-opus-4-5@20251101"


def test_openai_clients_reach_claude_on_vertex(vertex: Place) -> None:
    with openai.OpenAI(base_url=f"{vertex.url}/openai/v1", api_key=KEY, max_retries=0) as client:
        answer = client.chat.completions.create(
            model="claude-opus-4-5", messages=[{"role": "user", "content": "hi"}]
        )
    assert answer.choices[0].message.content == "Hello there"


def test_gemini_on_vertex_is_another_publisher(vertex: Place) -> None:
    before = vertex.spent()
    answer = vertex.ask(message(model="gemini"))
    assert answer.json()["content"] == [{"type": "text", "text": "Hi from Gemini"}]
    streamed = vertex.ask(message(model="gemini", stream=True))
    assert b"Hi from Gemini" in streamed.content and b"message_stop" in streamed.content
    paths = [one.target.partition("locations/us-east5")[2] for one in vertex.asked("google")]
    assert paths == [
        "/publishers/google/models/gemini-2.5-flash:generateContent",
        "/publishers/google/models/gemini-2.5-flash:streamGenerateContent?alt=sse",
    ]
    assert vertex.spent() - before == 2 * cost("0.30", "2.50")
    asked = {"contents": [{"role": "user", "parts": [{"text": "hi"}]}]}
    for name, text in (("gemini", "Hi from Gemini"), ("claude-opus-4-5", "Hello there")):
        path = f"/genai/v1beta/models/{name}:generateContent"
        told = httpx.post(vertex.url + path, json=asked, headers={"x-goog-api-key": KEY}).json()
        assert told["candidates"][0]["content"]["parts"][0]["text"] == text


def test_tokens_for_gemini_are_counted_by_vertex(vertex: Place) -> None:
    asked = message(model="cloud/gemini-2.5-pro", system="Be brief.")
    answer = vertex.ask(asked, "/v1/messages/count_tokens")
    assert (answer.status_code, answer.json()) == (200, {"input_tokens": 79})
    contents = [{"role": "user", "parts": [{"text": "Hello"}]}]
    whole = {"contents": contents, "toolConfig": {}, "safetySettings": []}
    path = "/genai/v1beta/models/cloud/gemini-2.5-pro:countTokens"
    told = vertex.ask({"generateContentRequest": whole}, path)
    assert told.json() == {"totalTokens": 79, "totalBillableCharacters": 300}
    assert told.headers["x-bf-count"] == "reported"


def test_other_makers_models_on_vertex_speak_chat_or_cannot_be_had(vertex: Place) -> None:
    answer = vertex.ask(message(model="cloud/openai/gpt-oss-120b-maas"))
    assert answer.json()["content"] == [{"type": "text", "text": "Hi from GPT"}]
    sent = json.loads(vertex.asked("/endpoints/openapi/chat/completions")[-1].body)
    assert sent["model"] == "openai/gpt-oss-120b-maas"
    answer = vertex.ask(message(model="cloud/mistral-large@2407"))
    assert answer.status_code == 404 and answer.headers["x-bf-error"] == "model_not_found"
    assert vertex.ask(message(model="mistral-large@2407")).status_code == 404
    page = httpx.get(f"{vertex.url}/v1/models", headers=bearer(), params={"limit": 1000}).json()
    listed = {model["id"] for model in page["data"]}
    assert {"claude-opus-5-5", "gemini-2.5-flash", "zai-org/glm-5-maas"} <= listed
    assert "mistral-large@2407" not in listed


def test_what_vertex_cannot_do_is_refused_before_it_is_asked(vertex: Place) -> None:
    servers = [{"type": "url", "url": "https://mcp.example", "name": "x"}]
    before = len(vertex.asked("/models/"))
    answer = vertex.ask(message(model="claude-opus-4-5", mcp_servers=servers))
    assert answer.status_code == 400, answer.text
    scoped = {"type": "ephemeral", "scope": "global"}
    system = [{"type": "text", "text": "be brief", "cache_control": scoped}]
    assert len(vertex.asked("/models/")) == before
    assert vertex.ask(message(model="claude-opus-4-5", system=system)).status_code == 200
    sent = json.loads(vertex.asked("claude-opus-4-5")[-1].body)
    assert sent["system"][0]["cache_control"] == {"type": "ephemeral"}


def test_errors_of_googles_front_are_told_in_anthropics_words(vertex: Place) -> None:
    prices = ("prices", "set", "vertex/claude-denied", "--input", "1", "--output", "1")
    vertex.gateway.command(*prices)
    until(lambda: vertex.ask(message(model="claude-denied")).status_code != 400)
    answer = vertex.ask(message(model="claude-denied"))
    assert answer.status_code == 403
    error = answer.json()["error"]
    assert error["type"] == "permission_error" and "my-proj" not in answer.text
    assert "aiplatform.endpoints.predict" in error["message"]


def test_a_token_that_is_taken_back_is_replaced_and_the_request_goes_on(tmp_path: Path) -> None:
    place = Place(tmp_path, Vertex(), VERTEX, **NAMES)
    try:
        asked = message(model="claude-opus-4-5")
        assert place.ask(asked).status_code == 200
        assert place.host.granted == 1  # before the first request, and for all of them
        place.host.holding.clear()
        with ThreadPoolExecutor(8) as many:  # all of them get the one new token
            assert {one.status_code for one in many.map(place.ask, [asked] * 8)} == {200}
        assert place.host.granted == 2
        place.host.holding.clear()  # and again at once: that is not our token's fault
        assert place.ask(asked).status_code == 401
        assert place.host.granted == 2
    finally:
        place.close()


def test_a_reload_keeps_what_was_granted_unless_it_is_for_another(tmp_path: Path) -> None:
    place = Place(tmp_path, Vertex(), VERTEX, **NAMES)
    try:
        config = json.loads(place.gateway.config.read_text())
        config["models"]["new-name"] = config["models"]["claude-opus-4-5"]
        place.gateway.config.write_text(json.dumps(config))
        until(lambda: place.ask(message(model="new-name")).status_code == 200)
        assert place.host.granted == 1
        other = json.loads(config["providers"]["cloud"]["credentials_json"])
        other["private_key_id"] = "k2"
        config["providers"]["cloud"]["credentials_json"] = json.dumps(other)
        place.gateway.config.write_text(json.dumps(config))
        until(lambda: place.host.granted == 2)
        assert place.ask(message(model="new-name")).status_code == 200
    finally:
        place.close()


def test_without_a_token_requests_are_told_at_once_and_the_log_says_why(tmp_path: Path) -> None:
    host = Vertex()
    host.ill = True
    place = Place(tmp_path, host, VERTEX, **NAMES)
    try:
        answer = place.ask(message(model="claude-opus-4-5"))
        assert answer.status_code == 529
        assert answer.headers["x-bf-error"] == "upstream_unavailable"
        assert "no credential for the provider 'cloud'" in answer.json()["error"]["message"]
        assert "robot@" not in answer.text
        assert place.spent() == 0
        assert not place.asked("claude")
        log = place.gateway.log.read_text()
        assert "no new credential" in log and "invalid_grant: Account not found" in log
        assert "PRIVATE KEY" not in log
    finally:
        place.close()


def test_the_doctor_gets_a_token_or_says_why_not(vertex: Place, tmp_path: Path) -> None:
    def finding(code: int) -> tuple[str, str]:
        done = bifrost(
            "doctor", "--config", vertex.gateway.config, "--data-dir", tmp_path / "d", "--json"
        )
        assert done.code == code, done.out
        found = {one["check"]: (one["result"], one["detail"]) for one in json.loads(done.out)}
        assert found["provider cloud"][0] == "ok"
        return found["credential cloud"]

    assert finding(0) == ("ok", "granted for 60 minutes")
    vertex.host.ill = True
    try:
        result, detail = finding(1)
    finally:
        vertex.host.ill = False
    assert result == "fail" and "invalid_grant: Account not found" in detail
    assert "PRIVATE" not in detail


# -- Azure -------------------------------------------------------------------------------------

BY_KEY = {
    "type": "azure", "resource": "res", "network": {"base_url": "LOOPBACK"},
    "keys": [{"name": "main", "value": Foundry.KEY}],
}  # fmt: skip
BY_ENTRA = {
    "type": "azure", "resource": "res", "network": {"base_url": "LOOPBACK"},
    "entra": {
        "tenant_id": "tenant", "client_id": "c", "client_secret": "s3cret", "authority": "LOOPBACK"
    },
}  # fmt: skip
DEPLOYED = {"claude-opus-4-5": "claude-opus-4-5", "claude-haiku-4-5": "gpt-5.1"}


@pytest.fixture(scope="module", params=["by key", "by Entra ID"])
def azure(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    provider = BY_KEY if request.param == "by key" else BY_ENTRA
    place = Place(tmp_path_factory.mktemp("azure"), Foundry(), provider, **DEPLOYED)
    yield place
    place.close()


def test_claude_on_azure_gets_every_byte(azure: Place) -> None:
    before = azure.spent()
    body = json.dumps(message(model="claude-opus-4-5"), indent=1).encode()
    answer = azure.ask(body, anthropic_beta="context-1m-2025-08-07")
    assert answer.status_code == 200, answer.text
    sent = azure.asked("/anthropic/v1/messages")[-1]
    assert sent.body == body
    assert sent.headers["anthropic-version"] == "2023-06-01"
    assert sent.headers["anthropic-beta"] == "context-1m-2025-08-07"
    assert KEY not in str(sent.headers)
    assert azure.spent() - before == cost("5", "25")


def test_streams_and_counts_of_claude_on_azure(azure: Place) -> None:
    streamed = azure.ask(message(model="claude-opus-4-5", stream=True))
    assert streamed.content.endswith(b'{"type": "message_stop"}\n\n')
    asked = {k: v for k, v in message(model="claude-opus-4-5").items() if k != "max_tokens"}
    counted = azure.ask(asked, "/v1/messages/count_tokens")
    assert counted.json() == {"input_tokens": 78}


def test_other_models_on_azure_speak_chat(azure: Place) -> None:
    before = azure.spent()
    answer = azure.ask(message(model="claude-haiku-4-5"))
    assert answer.json()["content"] == [{"type": "text", "text": "Hi from GPT"}]
    sent = azure.asked("/openai/v1/chat/completions")[-1]
    assert json.loads(sent.body)["model"] == "gpt-5.1"
    assert azure.spent() - before == cost("1.25", "10")


# -- AWS ---------------------------------------------------------------------------------------


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
