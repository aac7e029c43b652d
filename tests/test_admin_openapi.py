"""The OpenAPI document is valid, complete and true: a running gateway answers as it says."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import msgspec
import pytest
from openapi_spec_validator import validate

from bifrost.admin.api import operations
from bifrost.admin.openapi import document
from bifrost.admin.table import OWN_KEY, PUBLIC
from tests.administration import Admin
from tests.running import KEY, RunningGateway, configuration, environment

# Left out: ignored_auth sends wrong tokens without end, which the gateway stops to look at, and
# positive_data_acceptance takes every rule beyond JSON Schema (names that exist) for a mistake.
CHECKS = (
    "not_a_server_error", "status_code_conformance", "content_type_conformance",
    "response_headers_conformance", "response_schema_conformance", "negative_data_rejection",
    "missing_required_header", "unsupported_method", "allow_header_conformance",
    "use_after_free", "ensure_resource_availability",
)  # fmt: skip


@pytest.fixture(scope="module")
def described() -> dict[str, Any]:
    raw: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(document(operations())))
    return raw


def test_the_document_is_valid_openapi(described: dict[str, Any]) -> None:
    validate(described)
    assert described["openapi"].startswith("3.1.")


def test_it_lists_every_route_with_its_permission(described: dict[str, Any]) -> None:
    listed = {
        (method.upper(), path): shown
        for path, methods in described["paths"].items()
        for method, shown in methods.items()
    }
    rows = operations()
    assert set(listed) == {(row.method, row.path) for row in rows}
    assert len({shown["operationId"] for shown in listed.values()}) == len(rows)
    for row in rows:
        shown = listed[row.method, row.path]
        assert shown["x-permission"] == row.permission
        security = {PUBLIC: [], OWN_KEY: [{"virtualKey": []}]}.get(row.permission)
        assert shown.get("security") == security
        if row.body is not None:
            schema = shown["requestBody"]["content"]["application/json"]["schema"]
            component = described["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
            assert component["additionalProperties"] is False
            assert ("required" in component) is not row.partial


def test_schemas_do_not_promise_what_only_the_file_can(described: dict[str, Any]) -> None:
    assert "env" not in str(described["components"]["schemas"]["BudgetSpec"])


@pytest.mark.timeout(300)  # half a minute of work, on a machine that may be busy
def test_it_is_served_without_a_credential_and_is_true(tmp_path: Path) -> None:
    """Schemathesis against a gateway, bounded, the same cases in every run."""
    gateway = RunningGateway(tmp_path / "gateway", configuration("http://127.0.0.1:9"))
    try:
        url = f"{gateway.url}/api/openapi.json"
        served = httpx.get(url)
        assert served.status_code == 200
        assert set(served.json()["paths"]) == {row.path for row in operations()}
        with Admin(gateway) as admin:
            done = subprocess.run(
                [sys.executable, "-m", "schemathesis.cli", "run", url,
                 "-H", f"Authorization: Bearer {admin.token}", "-H", f"x-bf-vk: {KEY}",
                 "--checks", ",".join(CHECKS), "--max-examples", "5", "--no-color",
                 "--phases", "examples,coverage,fuzzing,stateful",
                 "--generation-deterministic"],
                capture_output=True, text=True, timeout=280, check=False, cwd=tmp_path,
                env=environment(),
            )  # fmt: skip
        assert done.returncode == 0, done.stdout[-6000:] + done.stderr[-2000:]
        # All but the document that it reads to know of them.
        assert f"Tested: {len(operations()) - 1}" in done.stdout
        assert '"level":"error"' not in gateway.log.read_text()
    finally:
        gateway.stop()
