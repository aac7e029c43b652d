"""Clients on models in Google's and Azure's clouds: governed, metered, proven to strict hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import anthropic
import httpx
import msgspec
import openai
import pytest

from bifrost.metering.catalogue import Catalogue
from bifrost.metering.usage import Usage
from bifrost.usage.reprice import charge, used_of
from tests.cloudhosts import OUTPUT, Foundry, Vertex
from tests.commands import bifrost, until
from tests.issuer import rsa_key
from tests.place import BETAS, CLAUDE_CODE, Place, cost, served
from tests.running import KEY, bearer, message

_, PEM = rsa_key()


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
    before = vertex.spent()
    with anthropic.Anthropic(base_url=vertex.url, auth_token=KEY, max_retries=0) as client:
        whole = client.messages.create(**message(model="claude-opus-4-5"))
        with client.messages.stream(**message(model="claude-opus-4-5")) as stream:
            final = stream.get_final_message()
    assert [one.content[0].text for one in (whole, final)] == ["Hello there"] * 2
    assert final.usage.output_tokens == OUTPUT
    assert vertex.spent() - before == 2 * cost("5", "25", "1.1")  # the region's price for both
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
