"""Google's own models as Vertex AI's clients ask for them: Google's SDK, refusals, addresses."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import httpx
import pytest
from google import genai
from google.genai import types
from google.oauth2.credentials import Credentials

from tests.cloudhosts import INPUT, OUTPUT, Vertex
from tests.place import Place
from tests.running import KEY, RunningGateway, RunningMock, bearer
from tests.test_clouds import VERTEX
from tests.test_gemini_door import CLAUDE, COSTS, GEMINI, asked, gateway, mock

__all__ = ["gateway", "mock"]  # fixtures
PROJECT = {"project": "their-own", "location": "us-east5", "credentials": Credentials(KEY)}  # type: ignore[no-untyped-call]
EXPRESS = {"api_key": KEY}
PLACE = "/vertex/v1beta1/projects/p-1/locations/global/publishers/google/models"


def sdk(url: str, by: dict[str, Any], version: str = "v1beta1") -> genai.Client:
    options = types.HttpOptions(base_url=f"{url}/vertex", api_version=version)
    return genai.Client(vertexai=True, http_options=options, **by)


@pytest.mark.parametrize("model", [GEMINI, CLAUDE])
@pytest.mark.parametrize("by", [PROJECT, EXPRESS], ids=["project", "express"])
@pytest.mark.parametrize("version", ["v1", "v1beta1"])
def test_the_sdk_is_served_in_its_mode_for_vertex(
    gateway: RunningGateway, model: str, by: dict[str, Any], version: str
) -> None:
    with sdk(gateway.url, by, version) as client:
        whole = client.models.generate_content(model=model, contents="Say hello.")
        chunks = list(client.models.generate_content_stream(model=model, contents="Say hello."))
        counted = client.models.count_tokens(model=model, contents="Say hello.")
    used = whole.usage_metadata
    assert used is not None
    assert (used.prompt_token_count, used.candidates_token_count) == (INPUT, OUTPUT)
    assert whole.text == "".join(one.text or "" for one in chunks)
    assert counted.total_tokens
    assert gateway.settled() == 2 * COSTS[model]


def test_at_vertex_the_bytes_pass_to_the_project_of_the_gateway(tmp_path: Path) -> None:
    place = Place(tmp_path, Vertex(), VERTEX)
    try:
        with sdk(place.url, PROJECT) as client:
            config = types.GenerateContentConfig(max_output_tokens=99, labels={"team": "core"})
            told = client.models.generate_content(model=GEMINI, contents="hi", config=config)
        assert told.text == "Hi from Gemini"
        (sent,) = place.asked("google")
        assert "/projects/my-proj/locations/us-east5/publishers/google/" in sent.path
        body = json.loads(sent.body)
        assert body["labels"] == {"team": "core"} and KEY not in str(sent.headers)
        assert place.spent() == COSTS[GEMINI]
    finally:
        place.close()


def test_refusals_are_in_googles_words(gateway: RunningGateway, mock: RunningMock) -> None:
    before = len(mock.requests())
    search = asked(tools=[{"googleSearch": {}}])
    for path, body, headers, status, kind in (
        (f"{PLACE}/{GEMINI}:generateContent", asked(), {}, 401, "UNAUTHENTICATED"),
        (f"{PLACE}/gpt-none:generateContent", asked(), bearer(), 404, "NOT_FOUND"),
        (f"{PLACE}/{GEMINI}:generateContent", search, bearer(), 400, "INVALID_ARGUMENT"),
        (f"{PLACE}/{GEMINI}:computeTokens", asked(), bearer(), 404, "NOT_FOUND"),
        (f"{PLACE}", asked(), bearer(), 404, "NOT_FOUND"),
    ):
        answer = httpx.post(gateway.url + path, json=body, headers=headers)
        error = answer.json()["error"]
        assert (answer.status_code, error["code"], error["status"]) == (status, status, kind)
    claude = PLACE.replace("google", "anthropic")
    told = httpx.post(f"{gateway.url}{claude}/x:rawPredict", json={}, headers=bearer()).json()
    assert told["type"] == "error"  # Claude's clients there get Anthropic's words
    assert len(mock.requests()) == before
