"""Entra ID's access tokens against a loopback issuer that is as strict, and against msal."""

from __future__ import annotations

import base64
import datetime
import json
import time
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import padding

from bifrost.providers import azure
from bifrost.providers.asking import CredentialError
from bifrost.providers.azure import Client
from bifrost.providers.tokens import Lease
from tests.issuer import Answer, Asked, Issuer, fetched, rsa_key

KEY, PEM = rsa_key()
TENANT, ID = "11111111-2222-3333-4444-555555555555", "aaaaaaaa-bbbb-cccc-dddd-eeeeeeeeeeee"
GRANTED = {"token_type": "Bearer", "expires_in": 3599, "access_token": "eyJ.granted"}
SCOPE = "https://ai.azure.com/.default"


def certificate() -> x509.Certificate:
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "gateway")])
    now = datetime.datetime.now(datetime.UTC)
    return (
        x509.CertificateBuilder().subject_name(name).issuer_name(name)
        .public_key(KEY.public_key()).serial_number(7).not_valid_before(now)
        .not_valid_after(now + datetime.timedelta(days=1)).sign(KEY, hashes.SHA256())
    )  # fmt: skip


CERTIFICATE = certificate()
CERTIFICATE_PEM = CERTIFICATE.public_bytes(serialization.Encoding.PEM).decode()


def decoded(part: str) -> Any:
    return json.loads(base64.urlsafe_b64decode(part + "=" * (-len(part) % 4)))


class Entra:
    """Grants an application a token if it proves itself in one of the three ways."""

    def __init__(self) -> None:
        self.url = ""

    def __call__(self, asked: Asked) -> Answer:
        form = asked.form
        if asked.path != f"/{TENANT}/oauth2/v2.0/token" or form["client_id"] != ID:
            return 400, self._refusal("AADSTS700016: Application not found.\r\nTrace ID: 1")
        assert (form["grant_type"], form["scope"]) == ("client_credentials", SCOPE)
        if "client_secret" in form:
            right = form["client_secret"] == "s3cr&t"
        else:
            kind = "urn:ietf:params:oauth:client-assertion-type:jwt-bearer"
            assert form["client_assertion_type"] == kind
            right = self._proven(form["client_assertion"])
        return (200, GRANTED) if right else (401, self._refusal("AADSTS7000222: secret expired"))

    def _proven(self, assertion: str) -> bool:
        if assertion == "eyJ.federated.token":
            return True
        header, claims, signature = assertion.split(".")
        KEY.public_key().verify(
            base64.urlsafe_b64decode(signature + "=="), f"{header}.{claims}".encode(),
            padding.PSS(padding.MGF1(hashes.SHA256()), 32), hashes.SHA256(),
        )  # fmt: skip
        told, named = decoded(claims), decoded(header)
        print_ = base64.urlsafe_b64decode(named["x5t#S256"] + "=")
        assert print_ == CERTIFICATE.fingerprint(hashes.SHA256()) and named["alg"] == "PS256"
        assert told["aud"] == f"{self.url}/{TENANT}/oauth2/v2.0/token"
        assert told["iss"] == told["sub"] == ID and told["jti"]
        assert told["nbf"] - 60 < time.time() < told["exp"] <= time.time() + 600
        return True

    def _refusal(self, text: str) -> dict[str, Any]:
        return {"error": "invalid_client", "error_description": text, "error_codes": [7000222]}


def get(issuer: Issuer, environ: dict[str, str] | None = None, **client: Any) -> Lease[Any]:
    who = Client(**{"tenant_id": TENANT, "client_id": ID, "authority": issuer.url} | client)
    return fetched(lambda ask: azure.source(ask, who, environ=environ or {}))


@pytest.fixture
def entra() -> Any:
    service = Entra()
    with Issuer(service) as issuer:
        service.url = issuer.url
        yield issuer


class Recorded:
    """What msal sends: its own idea of a transport, with Microsoft's answers."""

    def __init__(self) -> None:
        self.sent: list[tuple[str, str, Any]] = []

    def post(self, url: str, *, data: Any = None, **_: Any) -> Any:
        self.sent.append(("POST", url, data))
        return _Told(GRANTED)

    def get(self, url: str, *, params: Any = None, headers: Any = None, **_: Any) -> Any:
        self.sent.append(("GET", url, (params, headers)))
        return _Told(
            GRANTED if params is not None else {
                "token_endpoint": f"{azure.AUTHORITY}/{TENANT}/oauth2/v2.0/token",
                "authorization_endpoint": f"{azure.AUTHORITY}/{TENANT}/oauth2/v2.0/authorize",
                "issuer": f"{azure.AUTHORITY}/{TENANT}/v2.0",
            }
        )  # fmt: skip

    def close(self) -> None:
        pass


class _Told:
    status_code = 200
    headers: dict[str, str] = {}

    def __init__(self, told: dict[str, Any]) -> None:
        self.text = json.dumps(told)

    def raise_for_status(self) -> None:
        pass


def oracle(credential: Any) -> dict[str, str]:
    """The fields that msal sends for an application."""
    msal = pytest.importorskip("msal")
    recorded = Recorded()
    application = msal.ConfidentialClientApplication(
        ID, client_credential=credential, authority=f"{azure.AUTHORITY}/{TENANT}",
        http_client=recorded, instance_discovery=False,
    )  # fmt: skip
    assert application.acquire_token_for_client([SCOPE])["access_token"]
    [(_, url, fields)] = [one for one in recorded.sent if one[0] == "POST"]
    assert url == f"{azure.AUTHORITY}/{TENANT}/oauth2/v2.0/token"
    return {name: value for name, value in fields.items() if name != "client_info"}


def test_a_secret_proves_an_application_as_msal_does_it(entra: Issuer) -> None:
    found = get(entra, secret="s3cr&t")
    assert found.value == "eyJ.granted"
    assert 3590 < found.ends - time.time() < 3600
    assert 295 < found.ends - found.renew < 305
    assert entra.asked[0].form == oracle("s3cr&t")


@pytest.mark.parametrize("password", [None, "pass"])
def test_a_certificate_proves_an_application_as_msal_does_it(
    entra: Issuer, tmp_path: Path, password: str | None
) -> None:
    lock = serialization.BestAvailableEncryption(password.encode()) if password else None
    pem = KEY.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8,
        lock or serialization.NoEncryption(),
    )  # fmt: skip
    file = tmp_path / "both.pem"
    file.write_bytes(pem + CERTIFICATE_PEM.encode())
    given = {"certificate_file": str(file), "certificate_password": password}
    assert get(entra, **given).value == "eyJ.granted"
    theirs = oracle({"private_key": PEM, "public_certificate": CERTIFICATE_PEM})
    mine = entra.asked[0].form
    my_header, my_claims, _ = mine.pop("client_assertion").split(".")
    header, claims, _ = str(theirs.pop("client_assertion"), "ascii").split(".")
    assert mine == theirs
    assert decoded(my_claims).keys() - {"nbf"} == decoded(claims).keys()
    assert decoded(my_header)["alg"] == decoded(header)["alg"]
    assert decoded(my_header)["x5t#S256"] == decoded(header)["x5t#S256"].rstrip("=")
    if password:
        with pytest.raises(CredentialError, match="its password is wrong") as told:
            get(entra, **given | {"certificate_password": "no"})
        assert told.value.lasting
        with pytest.raises(CredentialError, match="needs its password"):
            get(entra, **given | {"certificate_password": None})
    file.write_bytes(PEM.encode())
    with pytest.raises(CredentialError, match="no PEM certificate beside its key"):
        get(entra, certificate_file=str(file))


def test_a_federated_token_proves_a_pod(entra: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("eyJ.federated.token\n")
    assert get(entra, token_file=str(file)).value == "eyJ.granted"
    assert entra.asked[0].form == oracle({"client_assertion": lambda: "eyJ.federated.token"})
    file.write_text("")
    with pytest.raises(CredentialError, match="holds no token"):
        get(entra, token_file=str(file))


def test_without_a_word_the_environment_of_a_pod_is_used(entra: Issuer, tmp_path: Path) -> None:
    file = tmp_path / "token"
    file.write_text("eyJ.federated.token")
    environ = {
        "AZURE_TENANT_ID": TENANT, "AZURE_CLIENT_ID": ID, "AZURE_AUTHORITY_HOST": entra.url,
        "AZURE_FEDERATED_TOKEN_FILE": str(file),
    }  # fmt: skip
    found = fetched(lambda ask: azure.source(ask, Client(), environ=environ))
    assert found.value == "eyJ.granted"
    environ["AZURE_CLIENT_SECRET"] = "s3cr&t"  # comes before it
    fetched(lambda ask: azure.source(ask, Client(), environ=environ))
    assert entra.asked[-1].form["client_secret"] == "s3cr&t"


def test_refusals_are_told_without_the_secret(entra: Issuer) -> None:
    with pytest.raises(CredentialError, match=r"401 \(invalid_client: AADSTS7000222") as told:
        get(entra, secret="old-secret")
    assert told.value.lasting and "old-secret" not in str(told.value)
    assert "Has the secret or certificate ended" in str(told.value)
    with pytest.raises(CredentialError, match="AADSTS700016: Application not found. Trace"):
        get(entra, secret="s", client_id="b")
    with pytest.raises(CredentialError, match="a tenant_id and a client_id"):
        get(entra, secret="s", tenant_id=None)
    with pytest.raises(CredentialError, match="authority has to be an https address"):
        get(entra, secret="s", authority="http://login.example")


def machine(environ: dict[str, str], client_id: str | None = None) -> Lease[Any]:
    return fetched(lambda ask: azure.source(ask, Client(client_id=client_id), environ=environ))


@pytest.mark.parametrize("client_id", [None, ID])
def test_a_virtual_machine_asks_its_metadata_service(client_id: str | None) -> None:
    def answer(asked: Asked) -> Answer:
        assert asked.method == "GET" and asked.headers["metadata"] == "true"
        assert asked.path == "/metadata/identity/oauth2/token"
        ends = int(time.time()) + 86_400
        return 200, {"access_token": "eyJ.vm", "expires_on": str(ends), "expires_in": "86400"}

    with Issuer(answer) as metadata:
        found = machine({"AZURE_POD_IDENTITY_AUTHORITY_HOST": metadata.url}, client_id)
        assert found.value == "eyJ.vm"
        assert 86_390 < found.ends - time.time() < 86_401
        assert 43_190 < found.renew - time.time() < 43_201
        assert metadata.asked[0].query == identity(client_id)


def identity(client_id: str | None) -> dict[str, str]:
    """The query that msal sends for the identity of a virtual machine."""
    msal = pytest.importorskip("msal")
    recorded = Recorded()
    who = (
        msal.UserAssignedManagedIdentity(client_id=client_id)
        if client_id
        else msal.SystemAssignedManagedIdentity()
    )
    client = msal.ManagedIdentityClient(who, http_client=recorded)
    assert client.acquire_token_for_client(resource="https://ai.azure.com")["access_token"]
    [(_, _, (params, headers))] = recorded.sent
    assert headers["Metadata"] == "true"
    return {str(name): str(value) for name, value in params.items()}


def test_an_app_asks_the_endpoint_beside_it() -> None:
    def answer(asked: Asked) -> Answer:
        assert asked.headers["x-identity-header"] == "h1"
        assert asked.query == {
            "api-version": "2019-08-01", "resource": "https://ai.azure.com", "client_id": ID
        }  # fmt: skip
        return 200, {"access_token": "eyJ.app", "expires_on": str(int(time.time()) + 5_000)}

    with Issuer(answer) as beside:
        environ = {"IDENTITY_ENDPOINT": f"{beside.url}/msi/token", "IDENTITY_HEADER": "h1"}
        found = machine(environ, ID)
        assert found.value == "eyJ.app"
        assert 4_990 < found.ends - time.time() < 5_001


def test_where_there_is_no_identity_it_is_said() -> None:
    with pytest.raises(CredentialError, match="neither a key nor a client secret"):
        machine({"AZURE_POD_IDENTITY_AUTHORITY_HOST": "http://127.0.0.1:9"})
    refusal = {"error": "invalid_request", "error_description": "Identity not found"}
    with Issuer(lambda _: (400, refusal)) as metadata:
        with pytest.raises(CredentialError, match="Identity not found") as told:
            machine({"AZURE_POD_IDENTITY_AUTHORITY_HOST": metadata.url})
        assert "managed identity" in str(told.value) and told.value.lasting
        metadata.answer = lambda _: (410, refusal)
        with pytest.raises(CredentialError):
            machine({"AZURE_POD_IDENTITY_AUTHORITY_HOST": metadata.url})
