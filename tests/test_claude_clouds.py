"""Claude's own service and API behind the clouds' doors: bytes pass, who asks is proven, and the
requests are those of Anthropic's own clients for these places."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import anthropic
import pytest
from botocore.credentials import Credentials

from bifrost.config import parse
from bifrost.providers.table import Host
from tests.cloudhosts import WORKSPACE, ClaudeOnAws, ClaudeOnGoogleCloud, Runtime
from tests.issuer import Issuer
from tests.place import BETAS, CLAUDE_CODE, Place, cost
from tests.running import KEY, message
from tests.test_clouds import google
from tests.test_clouds_aws import amazon

GOOGLE = {
    "type": "anthropic_google_cloud", "project": "my-proj", "region": "global",
    "workspace": WORKSPACE, "credentials_json": google("LOOPBACK"),
    "network": {"base_url": "LOOPBACK/v1"},
}  # fmt: skip
PLACES = ("google", "aws by signature", "aws by key")


@pytest.fixture(scope="module", params=PLACES)
def platform(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Place]:
    host: Any = ClaudeOnGoogleCloud() if request.param == "google" else ClaudeOnAws()
    provider: dict[str, Any] = GOOGLE
    if isinstance(host, ClaudeOnAws):
        by = request.param.rpartition(" ")[2]
        provider = amazon("anthropic_aws", host, by) | {"workspace": WORKSPACE}
        if by == "key":
            provider["keys"] = [{"name": "main", "value": ClaudeOnAws.KEY}]
    place = Place(tmp_path_factory.mktemp("platform"), host, provider, fast="claude-haiku-4-5")
    yield place
    place.close()


def test_claude_code_reaches_claude_untouched(platform: Place) -> None:
    body = CLAUDE_CODE.read_bytes()
    before = platform.spent()
    answer = platform.ask(
        body, "/v1/messages?beta=true", anthropic_beta=BETAS,
        anthropic_version="2026-10-21", anthropic_workspace_id="wrkspc_of_another",
    )  # fmt: skip
    assert answer.status_code == 200, answer.text
    assert answer.content.endswith(b'data: {"type": "message_stop"}\n\n')
    sent = platform.asked("/v1/messages")[-1]
    assert sent.body == body
    assert sent.headers["anthropic-beta"] == BETAS  # every beta is known to Claude's own service
    assert sent.headers["anthropic-version"] == "2026-10-21"
    assert KEY not in str(sent.headers)
    assert platform.spent() - before == cost("4", "20")  # Anthropic's own list price


def test_mapped_names_streams_and_counts(platform: Place) -> None:
    with anthropic.Anthropic(base_url=platform.url, auth_token=KEY, max_retries=0) as client:
        with client.messages.stream(**message(model="fast")) as stream:
            assert stream.get_final_text() == "Hello there"
        sent = json.loads(platform.asked("/v1/messages")[-1].body)
        assert sent["model"] == "claude-haiku-4-5"
        asked = {k: v for k, v in message(model="fast").items() if k != "max_tokens"}
        assert client.messages.count_tokens(**asked).input_tokens == 79


def test_other_clients_reach_it_too(platform: Place) -> None:
    asked = {"model": "fast", "messages": [{"role": "user", "content": "hi"}]}
    answer = platform.ask(asked, "/openai/v1/chat/completions")
    assert answer.json()["choices"][0]["message"]["content"] == "Hello there"


def test_what_a_proof_that_is_refused_leads_to(tmp_path: Path) -> None:
    host = ClaudeOnAws()
    provider = amazon("anthropic_aws", host, "signature") | {"workspace": WORKSPACE}
    place = Place(tmp_path, host, provider)
    try:
        assert place.ask(message(model="claude-haiku-4-5")).status_code == 200
        spent = place.spent()
        host.credentials = host.credentials._replace(secret_access_key="rotated")
        assert place.ask(message(model="claude-haiku-4-5")).status_code == 403
        assert place.spent() == spent
    finally:
        place.close()


# -- the requests of Anthropic's own clients -----------------------------------------------------


def host_of(provider: dict[str, Any]) -> Host:
    found = parse({"providers": {"p": provider}}, where="f", base=Path("/nowhere")).providers["p"]
    return Host("p", found.type, None, [], found.api, found.place)


def path_at(host: Host) -> str:
    return host.base_url + host.path("messages", "claude-opus-5-5").decode()


def messages_of(client: anthropic.Anthropic) -> str:
    return f"{str(client.base_url).rstrip('/')}/v1/messages"


def test_the_address_is_that_of_anthropics_client_for_google_cloud() -> None:
    client = anthropic.AnthropicGoogleCloud(
        project="my-proj", location="us-central1", workspace_id=WORKSPACE,
        token_provider=lambda: "t",
    )  # fmt: skip
    provider = GOOGLE | {"region": "us-central1", "network": {}}
    assert path_at(host_of(provider)) == messages_of(client)


def test_the_address_is_that_of_anthropics_client_for_aws() -> None:
    client = anthropic.AnthropicAWS(
        aws_access_key="A", aws_secret_key="s", aws_region="eu-west-1", workspace_id=WORKSPACE
    )
    provider = {"type": "anthropic_aws", "region": "eu-west-1", "workspace": WORKSPACE}
    assert path_at(host_of(provider)) == messages_of(client)


class Session:
    """What Anthropic's client wants of boto3, by botocore alone."""

    def __init__(self, *, aws_access_key: str, aws_secret_key: str, **more: str | None) -> None:
        self.region_name = more["region"]
        token = more["aws_session_token"]
        self.get_credentials = lambda: Credentials(aws_access_key, aws_secret_key, token)


@pytest.mark.parametrize("client", ["google", "aws"])
def test_the_strict_hosts_take_what_anthropics_clients_send(
    client: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """So what they demand of the gateway is what the real places are sent."""
    monkeypatch.setattr("anthropic.lib.aws._auth._get_session", Session)
    host: Any = ClaudeOnGoogleCloud() if client == "google" else ClaudeOnAws()
    with Issuer(host) as issuer:
        asking: anthropic.Anthropic
        if client == "google":
            token = host.grant()[1]["access_token"]
            asking = anthropic.AnthropicGoogleCloud(
                base_url=issuer.url + host.BASE, token_provider=lambda: token, max_retries=0
            )
        else:
            key, secret, session = host.credentials
            asking = anthropic.AnthropicAWS(
                aws_access_key=key, aws_secret_key=secret, aws_session_token=session,
                aws_region="us-east-1", workspace_id=WORKSPACE, base_url=issuer.url, max_retries=0,
            )  # fmt: skip
            # They sign every header there is; ours are all among them.
            host.SIGNED = Signs(host.SIGNED)
        with asking:
            told = asking.messages.create(**message(model="claude-opus-5-5"))
        assert told.content[0].type == "text"
        (sent,) = (one for one in issuer.asked if one.path.endswith("/v1/messages"))
        assert sent.headers["authorization"].startswith(("Bearer ya29", "AWS4-HMAC-SHA256"))


class Signs(list[str]):
    """Equal to whatever holds all of its names."""

    def __eq__(self, other: object) -> bool:
        return isinstance(other, list) and set(self) <= set(other)

    def __ne__(self, other: object) -> bool:
        return not self == other


# -- Bedrock's own endpoint ----------------------------------------------------------------------


@pytest.mark.parametrize("by", ["signature", "key"])
def test_bedrocks_endpoint_speaks_messages_where_that_is_chosen(by: str, tmp_path: Path) -> None:
    host = Runtime()
    provider = amazon("bedrock", host, by) | {"api": "messages"}
    place = Place(tmp_path, host, provider, **{"claude-opus-5-5": "us.anthropic.claude-opus-5-5"})
    try:
        body = CLAUDE_CODE.read_bytes()
        answer = place.ask(body, "/v1/messages?beta=true", anthropic_beta=BETAS)
        assert answer.status_code == 200, answer.text
        assert answer.headers["content-type"].startswith("text/event-stream")
        sent = place.asked("/anthropic/v1/messages")[-1]
        name = b'"us.anthropic.claude-opus-5-5"'
        assert sent.body == body.replace(b'"claude-opus-5-5"', name, 1)
        assert "mid-conversation" not in sent.headers["anthropic-beta"]
        assert place.spent() == cost("4.4", "22")
        counted = place.ask(message(model="claude-opus-5-5"), "/v1/messages/count_tokens")
        assert counted.json()["input_tokens"] > 0 and not place.asked("count_tokens")
    finally:
        place.close()
