"""The chain of AWS credentials against loopback services, and against botocore."""

from __future__ import annotations

import hashlib
import os
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bifrost.providers import aws
from bifrost.providers.asking import CredentialError
from bifrost.providers.aws import Wanted
from bifrost.providers.tokens import Lease
from bifrost.sigv4 import Credentials, signed_headers
from tests.issuer import Answer, Asked, Issuer, fetched

REGION = "eu-central-1"
BASE = Credentials("AKIDBASE", "base/secret+key")
ROLE = "arn:aws:iam::123456789012:role/gateway"
MIDDLE = "arn:aws:iam::123456789012:role/middle"


def stamp(after_s: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + after_s))


def document(key: str, after_s: float = 3600, token: str = "Token", **more: Any) -> dict[str, Any]:
    return {
        "AccessKeyId": key, "SecretAccessKey": f"secret-of-{key}", token: f"token-of-{key}",
        "Expiration": stamp(after_s), **more,
    }  # fmt: skip


class Sts:
    """Answers like AWS's service: the signature has to be right, and of a key that it knows."""

    def __init__(self) -> None:
        self.keys = {BASE.access_key_id: BASE}
        self.lasts = 3600.0

    def __call__(self, asked: Asked) -> Answer:
        form = asked.form
        assert form["Version"] == "2011-06-15"
        if form["Action"] == "AssumeRole":
            if (refusal := self._unsigned(asked)) is not None:
                return 403, _refusal("SignatureDoesNotMatch", refusal)
        else:
            assert form["Action"] == "AssumeRoleWithWebIdentity"
            if form["WebIdentityToken"] != "eyJ.pod":
                return 400, _refusal("InvalidIdentityToken", "The token is not &lt;ours&gt;.")
        key = f"ASIA{form['RoleArn'].rpartition('/')[2].upper()}"
        made = Credentials(key, f"secret-of-{key}", f"token-of-{key}==")
        self.keys[key] = made
        return 200, (
            f"<{form['Action']}Response xmlns='https://sts.amazonaws.com/doc/2011-06-15/'>"
            f"<{form['Action']}Result><AssumedRoleUser><Arn>a</Arn></AssumedRoleUser><Credentials>"
            f"<AccessKeyId>{made.access_key_id}</AccessKeyId>"
            f"<SecretAccessKey>{made.secret_access_key}</SecretAccessKey>"
            f"<SessionToken>{made.token}</SessionToken>"
            f"<Expiration>{stamp(self.lasts)}</Expiration>"
            f"</Credentials></{form['Action']}Result></{form['Action']}Response>"
        ).encode()

    def _unsigned(self, asked: Asked) -> str | None:
        given = asked.headers["authorization"]
        key = self.keys.get(given.partition("Credential=")[2].partition("/")[0])
        if key is None:
            return "unknown key"
        names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        now = datetime.strptime(asked.headers["x-amz-date"], "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        if abs(now.timestamp() - time.time()) > 300:
            return "expired"
        told = ("host", "x-amz-date", "x-amz-security-token")
        right = signed_headers(
            key, method="POST", host=asked.headers["host"], path=asked.path,
            headers={name: asked.headers[name] for name in names if name not in told},
            body_sha256=hashlib.sha256(asked.body).hexdigest(), region=REGION, service="sts",
            now=now,
        )  # fmt: skip
        return None if right["authorization"] == given else "wrong"


def _refusal(code: str, message: str) -> bytes:
    return (
        f"<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code>"
        f"<Message>{message}</Message></Error></ErrorResponse>"
    ).encode()


@pytest.fixture
def service() -> Iterator[Issuer]:
    with Issuer(Sts()) as issuer:
        yield issuer


class Place:
    """A home with AWS's files and an environment, for the gateway and for botocore alike."""

    def __init__(self, folder: Path, service: Issuer) -> None:
        self.home = folder
        self.environ = {
            "AWS_ENDPOINT_URL_STS": service.url,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": str(folder / "config"),
            "AWS_SHARED_CREDENTIALS_FILE": str(folder / "credentials"),
            "AWS_DEFAULT_REGION": REGION,
        }

    def write(self, config: str = "", credentials: str = "") -> None:
        (self.home / "config").write_text(config)
        (self.home / "credentials").write_text(credentials)

    def get(self, **wanted: Any) -> Lease[Credentials]:
        asked = Wanted(region=REGION, **wanted)
        return fetched(lambda ask: aws.source(ask, asked, environ=self.environ, home=self.home))

    def oracle(self, monkeypatch: pytest.MonkeyPatch, profile: str | None = None) -> Credentials:
        """What botocore finds."""
        botocore = pytest.importorskip("botocore.session")
        for name in [name for name in os.environ if name.startswith("AWS_")]:
            monkeypatch.delenv(name)
        for name, value in self.environ.items():
            monkeypatch.setenv(name, value)
        found = botocore.Session(profile=profile).get_credentials().get_frozen_credentials()
        return Credentials(found.access_key, found.secret_key, found.token or "")


@pytest.fixture
def place(tmp_path: Path, service: Issuer) -> Place:
    made = Place(tmp_path, service)
    made.write()
    return made


def test_keys_of_the_configuration_and_of_the_environment_have_no_end(place: Place) -> None:
    place.environ |= {"AWS_ACCESS_KEY_ID": "AKENV", "AWS_SECRET_ACCESS_KEY": "s"}
    own = place.get(access_key_id="AKOWN", secret_access_key="x", session_token="t")
    assert own.value == Credentials("AKOWN", "x", "t")
    assert (own.ends, own.renew) == (float("inf"), float("inf"))
    assert place.get().value == Credentials("AKENV", "s")
    del place.environ["AWS_SECRET_ACCESS_KEY"]
    with pytest.raises(CredentialError, match="not AWS_SECRET_ACCESS_KEY"):
        place.get()


CONFIG = f"""
[default]
region = {REGION}
s3 =
  max_concurrent_requests = 20
[profile dev]
aws_access_key_id = AKDEVCONFIG
aws_secret_access_key = of-config
[profile "with space"]
role_arn = {ROLE}
source_profile = base
external_id = 4711
role_session_name = nightly
duration_seconds = 1800
[profile chained]
role_arn = {ROLE}
source_profile = middle
role_session_name = session
[profile middle]
role_arn = {MIDDLE}
source_profile = base
role_session_name = session
[profile self]
role_arn = {ROLE}
source_profile = self
role_session_name = session
[profile env]
role_arn = {ROLE}
credential_source = Environment
role_session_name = session
[profile web]
role_arn = {ROLE}
web_identity_token_file = TOKEN
role_session_name = session
"""
KEYS = f"""
[base]
aws_access_key_id = {BASE.access_key_id}
aws_secret_access_key = {BASE.secret_access_key}
[self]
aws_access_key_id = {BASE.access_key_id}
aws_secret_access_key = {BASE.secret_access_key}
[dev]
aws_access_key_id = AKDEV
aws_secret_access_key = of-credentials
aws_session_token = of-session
"""


@pytest.mark.parametrize("profile", ["dev", "base", "with space", "chained", "self", "env", "web"])
@pytest.mark.parametrize("chosen", ["by the configuration", "by the environment"])
def test_profiles_give_what_botocore_finds(
    profile: str, chosen: str, place: Place, service: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = place.home / "token"
    token.write_text("eyJ.pod")
    place.write(CONFIG.replace("TOKEN", str(token)), KEYS)
    if profile == "env":
        place.environ |= {
            "AWS_ACCESS_KEY_ID": BASE.access_key_id,
            "AWS_SECRET_ACCESS_KEY": BASE.secret_access_key,
        }
    name: str | None = profile
    if chosen == "by the environment":
        place.environ["AWS_PROFILE"], name = profile, None
    theirs = place.oracle(monkeypatch, name)
    asked = [one.form for one in service.asked]
    service.asked.clear()
    assert place.get(profile=name).value == theirs
    assert [one.form for one in service.asked] == asked


def test_a_role_of_the_configuration_is_assumed_with_what_is_found(
    place: Place, service: Issuer
) -> None:
    place.write(credentials=KEYS.replace("[base]", "[default]"))
    found = place.get(role_arn=ROLE, external_id="x1")
    assert found.value.access_key_id == "ASIAGATEWAY"
    assert found.value.token == "token-of-ASIAGATEWAY=="
    assert 3590 < found.ends - time.time() < 3601
    assert 590 < found.ends - found.renew < 610
    [asked] = service.asked
    assert asked.form["ExternalId"] == "x1"
    assert asked.form["RoleSessionName"].startswith("bifrost-gateway-")


def test_a_pod_proves_itself_by_its_web_identity(
    place: Place, service: Issuer, monkeypatch: pytest.MonkeyPatch
) -> None:
    token = place.home / "token"
    token.write_text("eyJ.pod\n")
    place.write(credentials=KEYS.replace("[base]", "[default]"))  # comes after it
    place.environ |= {
        "AWS_ROLE_ARN": ROLE, "AWS_WEB_IDENTITY_TOKEN_FILE": str(token),
        "AWS_ROLE_SESSION_NAME": "pod",
    }  # fmt: skip
    found = place.get()
    assert found.value.access_key_id == "ASIAGATEWAY"
    assert "authorization" not in service.asked[0].headers
    token.write_text("eyJ.pod")
    assert place.oracle(monkeypatch) == found.value
    mine, theirs = (one.form for one in service.asked)
    assert mine == theirs
    token.write_text("eyJ.other")
    with pytest.raises(
        CredentialError, match=r"InvalidIdentityToken \(The token is not <ours>"
    ) as e:
        place.get()
    assert e.value.lasting


def test_a_task_asks_its_container_and_says_who_it_is(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(asked: Asked) -> Answer:
        assert asked.path == "/v1/credentials" and asked.headers["authorization"] == "pod-token"
        return 200, document("ASIATASK")

    with Issuer(answer) as container:
        token = place.home / "authorization"
        token.write_text("pod-token\n")
        place.environ |= {
            "AWS_CONTAINER_CREDENTIALS_FULL_URI": f"{container.url}/v1/credentials",
            "AWS_CONTAINER_AUTHORIZATION_TOKEN_FILE": str(token),
        }
        found = place.get()
        assert found.value == Credentials("ASIATASK", "secret-of-ASIATASK", "token-of-ASIATASK")
        token.write_text("pod-token")
        assert place.oracle(monkeypatch) == found.value
    place.environ["AWS_CONTAINER_CREDENTIALS_FULL_URI"] = "http://10.0.0.1/v1/credentials"
    with pytest.raises(CredentialError, match=r"'10\.0\.0\.1': http leads only to this machine"):
        place.get()


class Instance:
    """An instance's metadata service, version 2: nothing without its token."""

    def __init__(self, role: str = "app-role") -> None:
        self.role = role
        self.given = document("ASIAINSTANCE", Code="Success")

    def __call__(self, asked: Asked) -> Answer:
        if asked.method == "PUT":
            assert asked.path == "/latest/api/token"
            assert 0 < int(asked.headers["x-aws-ec2-metadata-token-ttl-seconds"]) <= 21600
            return 200, b"imds-token=="
        if asked.headers.get("x-aws-ec2-metadata-token") != "imds-token==":
            return 401, b""
        base = "/latest/meta-data/iam/security-credentials/"
        if asked.path == base:
            return (200, self.role.encode()) if self.role else (404, b"")
        assert asked.path == base + self.role
        return 200, self.given


def test_an_instance_asks_its_metadata_service(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    service = Instance()
    with Issuer(service) as metadata:
        place.environ |= {
            "AWS_EC2_METADATA_DISABLED": "false",
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": metadata.url,
        }
        found = place.get()
        assert found.value.access_key_id == "ASIAINSTANCE"
        assert 265 < found.ends - found.renew < 275
        assert place.oracle(monkeypatch) == found.value
        service.given = document("ASIAOLD", -60, Code="Success")
        assert 590 < place.get().ends - time.time() < 610
        service.given = {"Code": "AssumeRoleUnauthorizedAccess", "Message": "trust is missing"}
        with pytest.raises(CredentialError, match="trust is missing"):
            place.get()
        service.role = ""
        with pytest.raises(CredentialError, match="the instance has no role"):
            place.get()


def test_where_nothing_is_configured_all_places_are_named(place: Place) -> None:
    with pytest.raises(CredentialError, match="neither AWS_ACCESS_KEY_ID nor a profile"):
        place.get()
    place.environ |= {
        "AWS_EC2_METADATA_DISABLED": "", "AWS_EC2_METADATA_SERVICE_ENDPOINT": "http://127.0.0.1:9"
    }  # fmt: skip
    with pytest.raises(CredentialError, match="there is no instance"):
        place.get()


def test_programs_are_run_only_where_that_is_allowed(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = place.home / "vend.py"
    told = document("ASIAPROG", token="SessionToken", Version=1)
    program.write_text(f"import json; print(json.dumps({told!r}))")
    place.write(f"[default]\ncredential_process = {sys.executable} {program}\n")
    with pytest.raises(CredentialError, match=r"only where aws\.credential_process is true"):
        place.get()
    found = place.get(programs=True).value
    assert found == Credentials("ASIAPROG", "secret-of-ASIAPROG", "token-of-ASIAPROG")
    assert place.oracle(monkeypatch) == found
    program.write_text("import sys; sys.exit('no\\nvault')")
    with pytest.raises(CredentialError, match=r"exit code 1\): no vault"):
        place.get(programs=True)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ("[profile p]\nregion = x\n", "'p' holds no credentials"),
        ("[profile q]\n", r"no profile 'p' in .*config and .*credentials \(known: q\)"),
        ("[profile p]\naws_access_key_id = A\n", "half of a key"),
        ("[profile p]\nsso_session = corp\n", "signs in a person by SSO"),
        (f"[profile p]\nrole_arn = {ROLE}\n", "source_profile or a credential_source"),
        (f"[profile p]\nrole_arn = {ROLE}\nsource_profile = p\n", "circle: p → p"),
        (f"[profile p]\nrole_arn = {ROLE}\nsource_profile = q\n", "'q' of 'p' is not there"),
        (
            f"[profile p]\nrole_arn = {ROLE}\nsource_profile = q\n"
            f"[profile q]\nrole_arn = {ROLE}\nsource_profile = p\n",
            "circle: p → q → p",
        ),
        (
            f"[profile p]\nrole_arn = {ROLE}\nsource_profile = q\nmfa_serial = arn:m\n"
            "[profile q]\naws_access_key_id = A\naws_secret_access_key = B\n",
            "second factor",
        ),
        ("[profile p\n", "config cannot be read"),
    ],
)
def test_what_is_wrong_with_a_profile_is_said(config: str, message: str, place: Place) -> None:
    place.write(config)
    with pytest.raises(CredentialError, match=message) as told:
        place.get(profile="p")
    assert told.value.lasting


@pytest.mark.parametrize(
    ("answer", "message", "lasting"),
    [
        ((403, _refusal("AccessDenied", "not you")), r"AccessDenied \(not you\)", True),
        ((400, _refusal("Throttling", "slow down")), "Throttling", False),
        ((503, b"<html>"), ": 503", False),
        ((200, b"<AssumeRoleResponse/>"), "without usable credentials", False),
    ],
)
def test_answers_of_sts_that_hold_no_credentials(
    answer: Answer, message: str, lasting: bool, place: Place, service: Issuer
) -> None:
    place.write(credentials=KEYS.replace("[base]", "[default]"))
    service.answer = lambda _: answer
    with pytest.raises(CredentialError, match=message) as told:
        place.get(role_arn=ROLE)
    assert told.value.lasting == lasting
    assert BASE.secret_access_key not in str(told.value)
