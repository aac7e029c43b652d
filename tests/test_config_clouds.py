"""What a configuration file may say of providers in a cloud, and where they then are."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from bifrost.config import Settings, parse
from bifrost.config.hosts import address
from bifrost.config.load import public
from bifrost.errors import ConfigError

DOCS = Path(__file__).parent.parent / "docs" / "clouds.md"
KEYS = [{"name": "main", "value": "k"}]
VERTEX = {"type": "vertex", "project": "my-proj", "region": "us-east5"}
AZURE = {"type": "azure", "resource": "res"}
PLATFORM = {
    "type": "anthropic_google_cloud", "project": "my-proj", "region": "global",
    "workspace": "wrkspc_1",
}  # fmt: skip
MANTLE = {"type": "bedrock_mantle", "region": "us-east-1"}


def read(provider: dict[str, Any]) -> Settings:
    return parse({"providers": {"p": provider}}, where="f", base=Path("/nowhere"))


def test_the_documented_examples_can_be_used(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_API_KEY", "AWS_BEARER_TOKEN_BEDROCK", "ANTHROPIC_AWS_API_KEY"):
        monkeypatch.setenv(name, "k")
    examples = re.findall(r"```json\n(.*?)```", DOCS.read_text(), re.S)
    assert len(examples) == 4
    for example in examples:
        assert parse(json.loads(example), where="f", base=Path("/nowhere")).providers


@pytest.mark.parametrize(
    ("provider", "url"),
    [
        (
            VERTEX,
            "https://us-east5-aiplatform.googleapis.com/v1/projects/my-proj/locations/us-east5",
        ),
        (
            VERTEX | {"region": "global"},
            "https://aiplatform.googleapis.com/v1/projects/my-proj/locations/global",
        ),
        (
            VERTEX | {"region": "eu"},
            "https://aiplatform.eu.rep.googleapis.com/v1/projects/my-proj/locations/eu",
        ),
        (
            VERTEX | {"network": {"base_url": "https://proxy.example/v1/"}},
            "https://proxy.example/v1/projects/my-proj/locations/us-east5",
        ),
        (AZURE | {"keys": KEYS}, "https://res.services.ai.azure.com"),
        (
            {"type": "azure", "keys": KEYS, "network": {"base_url": "https://r.openai.azure.com"}},
            "https://r.openai.azure.com",
        ),
        (MANTLE, "https://bedrock-mantle.us-east-1.api.aws"),
        (MANTLE | {"type": "bedrock"}, "https://bedrock-runtime.us-east-1.amazonaws.com"),
        (
            PLATFORM,
            "https://claude.googleapis.com/v1/projects/my-proj/locations/global/workspaces/"
            "wrkspc_1/invoke",
        ),
        (
            {"type": "anthropic_aws", "region": "us-east-1", "workspace": "wrkspc_1"},
            "https://aws-external-anthropic.us-east-1.api.aws",
        ),
        (
            {"type": "bedrock", "region": "us-east-1", "api": "messages"},
            "https://bedrock-runtime.us-east-1.amazonaws.com",
        ),
        (
            {"type": "bedrock", "region": "cn-north-1", "keys": KEYS},
            "https://bedrock-runtime.cn-north-1.amazonaws.com.cn",
        ),
    ],
)
def test_where_they_are(provider: dict[str, Any], url: str) -> None:
    found = read(provider).providers["p"]
    assert address(found.type, found.api, found.network.base_url, found.place)[1] == url


@pytest.mark.parametrize(
    ("provider", "problems"),
    [
        (
            {"type": "vertex", "project": "my-proj"},
            ["region: missing; a provider of type 'vertex'"],
        ),
        ({"type": "azure", "entra": {}}, ["resource: missing"]),
        (AZURE, ["keys: needs at least one key, or entra"]),
        (AZURE | {"keys": KEYS, "entra": {}}, ["entra: given beside keys"]),
        (VERTEX | {"keys": KEYS}, ["keys: type 'vertex' takes none; it has project, region,"]),
        (MANTLE | {"keys": KEYS, "aws": {}}, ["aws: given beside keys"]),
        (
            {"type": "openai", "keys": KEYS, "region": "us", "entra": {}},
            ["region: type 'openai' has none; it is in no cloud", "entra: type 'openai' has none"],
        ),
        (
            VERTEX | {"resource": "r-1"},
            ["resource: type 'vertex' has none; it has project, region"],
        ),
        (VERTEX | {"region": "US East"}, ["region: expected a region such as 'us-east-1'"]),
        (
            AZURE | {"entra": {}, "resource": "https://res.services.ai.azure.com"},
            ["resource: expected a resource's name, not its address"],
        ),
        (
            VERTEX | {"credentials_file": "a.json", "credentials_json": "{}"},
            ["credentials_json: given beside credentials_file"],
        ),
        (
            AZURE | {"entra": {"client_secret": "s", "token_file": "t", "client_id": "c"}},
            [
                "entra: expected one proof, got client_secret and token_file",
                "entra: client_secret needs tenant_id and client_id",
            ],
        ),
        (AZURE | {"entra": {"tenant_id": "t"}}, ["entra: a tenant_id needs one of client_secret"]),
        (
            AZURE | {"entra": {"certificate_password": "p"}},
            ["entra.certificate_password: there is no certificate_file"],
        ),
        (
            AZURE | {"entra": {"authority": "http://login.example"}},
            ["entra.authority: expected an https address"],
        ),
        (PLATFORM | {"workspace": None}, ["workspace: missing; a provider of type"]),
        (PLATFORM | {"workspace": "a/b"}, ["workspace: expected the id of a workspace"]),
        (PLATFORM | {"keys": KEYS}, ["keys: type 'anthropic_google_cloud' takes none"]),
        (VERTEX | {"workspace": "w1"}, ["workspace: type 'vertex' has none"]),
        (MANTLE | {"aws": {"access_key_id": "A"}}, ["aws: expected access_key_id and secret_"]),
        (MANTLE | {"aws": {"external_id": "x"}}, ["aws.external_id: there is no role_arn"]),
        (MANTLE | {"aws": {"session_token": "x"}}, ["aws.session_token: there is no access_key"]),
        (
            MANTLE | {"aws": {"access_key_id": "A", "secret_access_key": "B", "profile": "p"}},
            ["aws.profile: given beside access_key_id"],
        ),
        (MANTLE | {"aws": {"rol_arn": "x"}}, ["aws.rol_arn: unknown key; did you mean 'role_arn'"]),
    ],
)
def test_what_cannot_be_is_said(provider: dict[str, Any], problems: list[str]) -> None:
    with pytest.raises(ConfigError) as told:
        read(provider)
    lines = str(told.value).splitlines()[1:]
    assert len(lines) == len(problems), lines
    for line, problem in zip(lines, problems, strict=True):
        assert line.startswith(f"providers.p.{problem}")


def test_secrets_are_not_shown() -> None:
    whole = AZURE | {"entra": {"tenant_id": "t", "client_id": "c", "client_secret": "hunter2"}}
    other = MANTLE | {"aws": {"access_key_id": "A", "secret_access_key": "hunter2"}}
    third = VERTEX | {"credentials_json": '{"private_key": "hunter2"}'}
    for provider in (whole, other, third):
        settings = read(provider)
        assert "hunter2" not in json.dumps(public(settings))
        assert "hunter2" not in repr(settings)
