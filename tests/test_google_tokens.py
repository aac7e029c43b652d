"""Google's access tokens: every kind of credentials against a loopback issuer, and google-auth."""

from __future__ import annotations

import base64
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import padding

from bifrost.providers import google
from bifrost.providers.asking import CredentialError
from tests.issuer import Answer, Asked, Issuer, fetched, rsa_key

KEY, PEM = rsa_key()
EMAIL = "robot@my-project.iam.gserviceaccount.com"
GRANTED = {"access_token": "ya29.granted", "expires_in": 3599, "token_type": "Bearer"}
AUDIENCE = "//iam.googleapis.com/projects/1/locations/global/workloadIdentityPools/p/providers/q"
JWT_TYPE = "urn:ietf:params:oauth:token-type:jwt"


def account(issuer: Issuer) -> dict[str, Any]:
    return {
        "type": "service_account",
        "project_id": "my-project",
        "private_key_id": "k1",
        "private_key": PEM,
        "client_email": EMAIL,
        "client_id": "1",
        "token_uri": f"{issuer.url}/token",
    }


def federated(issuer: Issuer, source: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {
        "type": "external_account",
        "audience": AUDIENCE,
        "subject_token_type": JWT_TYPE,
        "token_url": f"{issuer.url}/v1/token",
        "credential_source": source,
        **more,
    }


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


def strict(asked: Asked) -> Answer:
    """Grants a service account's assertion for what Google would: signed, of now, for an hour."""
    form = asked.form
    header, claims, signature = form["assertion"].split(".")
    KEY.public_key().verify(
        base64.urlsafe_b64decode(signature + "=="), f"{header}.{claims}".encode(),
        padding.PKCS1v15(), hashes.SHA256(),
    )  # fmt: skip
    told = decoded(claims)
    assert decoded(header) == {"typ": "JWT", "alg": "RS256", "kid": "k1"}
    assert form["grant_type"] == "urn:ietf:params:oauth:grant-type:jwt-bearer"
    assert (told["iss"], told["scope"], told["aud"]) == (EMAIL, google.SCOPE, google.TOKEN_URL)
    assert told["exp"] - told["iat"] == 3600 and abs(told["iat"] - time.time()) < 60
    return 200, GRANTED


def by(info: dict[str, Any], **more: Any) -> Any:
    return fetched(lambda ask: google.source(ask, text=json.dumps(info), **more))


def oracle(info: dict[str, Any]) -> str:
    """The token that google-auth gets."""
    pytest.importorskip("google.auth")
    import requests
    from google.auth.identity_pool import Credentials as Federated
    from google.auth.transport.requests import Request
    from google.oauth2.service_account import Credentials as Account

    made = (
        Federated.from_info(info, scopes=[google.SCOPE])
        if info["type"] == "external_account"
        else Account.from_service_account_info(info, scopes=[google.SCOPE])
    )
    with requests.Session() as session:
        made.refresh(Request(session))
    return str(made.token)


def test_a_service_account_is_granted_a_token_for_an_hour() -> None:
    with Issuer(strict) as issuer:
        found = by(account(issuer))
        assert found.value == "ya29.granted"
        assert 3590 < found.ends - time.time() < 3600
        assert 200 < found.ends - found.renew < 250
        assert "ya29" not in repr(found)
        [asked] = issuer.asked
        assert asked.headers["content-type"] == "application/x-www-form-urlencoded"


def test_a_service_account_asks_what_google_auth_asks() -> None:
    with Issuer(strict) as issuer:
        assert oracle(account(issuer)) == by(account(issuer)).value
        theirs, mine = (asked.form for asked in issuer.asked)
        (head, claims, _), (my_head, my_claims, _) = (
            form.pop("assertion").split(".") for form in (theirs, mine)
        )
        assert theirs == mine
        assert decoded(head) == decoded(my_head)
        same, my_same = decoded(claims), decoded(my_claims)
        for one in (same, my_same):
            assert one.pop("exp") - one.pop("iat") == 3600
        assert same == my_same


def test_a_person_who_logged_in_is_known_by_the_refresh_token() -> None:
    info = {
        "type": "authorized_user",
        "client_id": "c.apps.googleusercontent.com",
        "client_secret": "s&cret",
        "refresh_token": "1//r",
    }
    with Issuer(lambda _: (200, GRANTED)) as issuer:
        assert by(info | {"token_uri": issuer.url}).value == "ya29.granted"
        assert issuer.asked[0].form == {
            "grant_type": "refresh_token", "refresh_token": "1//r", "client_secret": "s&cret",
            "client_id": "c.apps.googleusercontent.com",
        }  # fmt: skip
        issuer.answer = lambda _: (
            400,
            {"error": "invalid_grant", "error_description": "Token has been expired or revoked."},
        )
        with pytest.raises(CredentialError, match="invalid_grant: Token has been expired") as told:
            by(info | {"token_uri": issuer.url})
        assert "gcloud auth application-default login" in str(told.value)
        assert told.value.lasting and "s&cret" not in str(told.value)


@pytest.mark.parametrize("style", ["text", "json"])
@pytest.mark.parametrize("place", ["file", "url"])
def test_a_foreign_token_is_exchanged_as_google_auth_does(
    place: str, style: str, tmp_path: Path
) -> None:
    token = "eyJ.foreign.token"
    content = token if style == "text" else json.dumps({"id_token": token})

    def answer(asked: Asked) -> Answer:
        if asked.path == "/subject":
            assert asked.headers["x-flavour"] == "mine"
            return 200, content.encode()
        return 200, GRANTED

    with Issuer(answer) as issuer:
        file = tmp_path / "token"
        file.write_text(content)
        source: dict[str, Any] = {"file": str(file)}
        if place == "url":
            source = {"url": f"{issuer.url}/subject", "headers": {"X-Flavour": "mine"}}
        if style == "json":
            source["format"] = {"type": "json", "subject_token_field_name": "id_token"}
        info = federated(issuer, source)
        assert oracle(info) == by(info).value == "ya29.granted"
        theirs, mine = (one.form for one in issuer.asked if one.path == "/v1/token")
        assert theirs == mine
        assert mine["subject_token"] == token and mine["scope"] == google.SCOPE
        file.write_text("{}")
        if place == "file" and style == "json":
            with pytest.raises(CredentialError, match="holds no token"):
                by(info)


def test_a_federated_caller_speaks_for_a_service_account(tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("eyJ.foreign\n")

    def answer(asked: Asked) -> Answer:
        if asked.path == "/v1/token":
            assert asked.form["scope"] == google.IAM_SCOPE
            return 200, {"access_token": "federated", "expires_in": 3600}
        assert asked.path == f"/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"
        assert asked.headers["authorization"] == "Bearer federated"
        assert json.loads(asked.body) == {
            "delegates": [], "scope": [google.SCOPE], "lifetime": "2800s"
        }  # fmt: skip
        ends = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 2800))
        return 200, {"accessToken": "impersonated", "expireTime": ends}

    with Issuer(answer) as issuer:
        url = f"{issuer.url}/v1/projects/-/serviceAccounts/{EMAIL}:generateAccessToken"
        info = federated(
            issuer, {"file": str(file)}, service_account_impersonation_url=url,
            service_account_impersonation_options={"token_lifetime_seconds": 2800},
        )  # fmt: skip
        found = by(info)
        assert found.value == "impersonated"
        assert 2700 < found.ends - time.time() < 2801


def test_who_logged_in_may_speak_for_a_service_account() -> None:
    def answer(asked: Asked) -> Answer:
        if asked.path == "/token":
            return 200, {"access_token": "mine", "expires_in": 3600}
        assert asked.headers["authorization"] == "Bearer mine"
        return 403, {"error": {"code": 403, "message": "no right", "status": "PERMISSION_DENIED"}}

    with Issuer(answer) as issuer:
        user = {
            "type": "authorized_user", "client_id": "c", "client_secret": "s",
            "refresh_token": "r", "token_uri": f"{issuer.url}/token",
        }  # fmt: skip
        info = {
            "type": "impersonated_service_account", "source_credentials": user,
            "service_account_impersonation_url": f"{issuer.url}/x:generateAccessToken",
        }  # fmt: skip
        with pytest.raises(CredentialError, match="PERMISSION_DENIED: no right") as told:
            by(info)
        assert "roles/iam.serviceAccountTokenCreator" in str(told.value)


def test_a_machine_asks_its_metadata_server(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Answer:
        assert asked.headers["metadata-flavor"] == "Google"
        assert asked.path == "/computeMetadata/v1/instance/service-accounts/default/token"
        assert asked.query == {"scopes": google.SCOPE}
        return 200, GRANTED | {"expires_in": 400}

    with Issuer(answer) as issuer:
        environ = {"GCE_METADATA_HOST": issuer.host}
        found = fetched(lambda ask: google.source(ask, environ=environ, home=tmp_path))
        assert found.value == "ya29.granted"
        assert 195 < found.renew - time.time() <= 200  # not before half its time
        well_known = tmp_path / ".config/gcloud/application_default_credentials.json"
        well_known.parent.mkdir(parents=True)
        well_known.write_text(json.dumps(account(issuer)))
        issuer.answer = strict
        assert fetched(lambda ask: google.source(ask, environ=environ, home=tmp_path)).value
        assert issuer.asked[-1].path == "/token"
        named = tmp_path / "named.json"
        named.write_text("[]")
        environ["GOOGLE_APPLICATION_CREDENTIALS"] = str(named)
        with pytest.raises(CredentialError, match=r"named\.json holds no JSON object"):
            fetched(lambda ask: google.source(ask, environ=environ, home=tmp_path))


def test_where_nothing_is_configured_all_places_are_named(tmp_path: Path) -> None:
    environ = {"GCE_METADATA_HOST": "127.0.0.1:9"}
    with pytest.raises(CredentialError, match="GOOGLE_APPLICATION_CREDENTIALS") as told:
        fetched(lambda ask: google.source(ask, environ=environ, home=tmp_path))
    assert "no metadata server" in str(told.value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"type": "gdch_service_account"}, "type 'gdch_service_account', which is not known"),
        ({"client_email": ""}, "lack 'client_email'"),
        ({"private_key": "-----BEGIN"}, f"the key of {EMAIL}: no PEM key"),
        ({"token_uri": "http://evil.example/token"}, "token_uri has to be an https address"),
    ],
)
def test_what_is_wrong_with_a_file_is_said(change: dict[str, Any], message: str) -> None:
    with Issuer(strict) as issuer:
        with pytest.raises(CredentialError, match=message) as told:
            by(account(issuer) | change)
        assert told.value.lasting and not issuer.asked


def test_programs_are_not_run_for_a_token() -> None:
    with Issuer(strict) as issuer:
        with pytest.raises(CredentialError, match="a file or a url, got executable"):
            by(federated(issuer, {"executable": {"command": "/bin/true"}}))


@pytest.mark.parametrize(
    ("answer", "message", "lasting"),
    [
        ((503, b"<html>"), r"/token answers 503\.$", False),
        ((200, b"[]"), "answers without a credential", True),
        ((200, {"expires_in": 3600}), "without a usable 'access_token'", False),
        ((200, {"access_token": "a\r\nb: c"}), "without a usable 'access_token'", False),
        ((400, {"error": "invalid_grant", "error_description": "x" * 900}), "x{280}…", True),
    ],
)
def test_answers_that_hold_no_token(answer: Answer, message: str, lasting: bool) -> None:
    with Issuer(lambda _: answer) as issuer:
        with pytest.raises(CredentialError, match=message) as told:
            by(account(issuer))
        assert told.value.lasting == lasting
        assert len(str(told.value)) < 600 and "\n" not in str(told.value)
