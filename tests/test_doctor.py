"""``bifrost doctor``: each of its findings."""

from __future__ import annotations

import json
import socket
from pathlib import Path
from typing import Any

import pytest

from tests.commands import Office, bifrost
from tests.running import RunningMock, configuration


def written(folder: Path, config: dict[str, Any], **server: Any) -> Path:
    path = folder / "bifrost.json"
    path.write_text(json.dumps({**config, "server": server or {"port": 0}}))
    return path


def findings(config: Path, data_dir: Path, code: int = 0) -> dict[str, tuple[str, str]]:
    done = bifrost("doctor", "--config", config, "--data-dir", data_dir, "--json")
    assert done.code == code and done.err == ""
    return {one["check"]: (one["result"], one["detail"]) for one in json.loads(done.out)}


def test_all_is_well(tmp_path: Path, mock: RunningMock) -> None:
    data = tmp_path / "data"
    Office(data).json("keys", "create", "--name", "one")
    config = written(tmp_path, configuration(mock.url))
    found = findings(config, data)
    assert {name: result for name, (result, _) in found.items() if name != "prices"} == {
        "configuration": "ok", "port": "ok", "store": "ok", "provider anthropic": "ok",
        "clock": "ok",
    }  # fmt: skip
    assert found["prices"][0] in ("ok", "warn")  # warns when the package's prices grow old
    assert "1 virtual keys, 0 requests in flight" in found["store"][1]
    assert f"{mock.url} answers (401)" in found["provider anthropic"][1]
    text = bifrost("doctor", "--config", config, "--data-dir", data)
    assert text.code == 0 and "ok    port: 127.0.0.1:0 is free" in text.out


def test_an_unreachable_provider_fails(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))  # bound but not listening: connections are refused
        port = taken.getsockname()[1]
        config = written(tmp_path, configuration(f"http://127.0.0.1:{port}"))
        result, detail = findings(config, tmp_path / "data", 1)["provider anthropic"]
    assert result == "fail" and f"127.0.0.1:{port}" in detail
    assert "sk-ant-upstream-secret" not in detail


def test_a_taken_port_is_a_warning(tmp_path: Path, mock: RunningMock) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        config = written(tmp_path, configuration(mock.url), port=port)
        result, detail = findings(config, tmp_path / "data")["port"]
    assert result == "warn" and f"127.0.0.1:{port} is taken" in detail


def test_a_socket_needs_no_port(tmp_path: Path, mock: RunningMock) -> None:
    config = written(tmp_path, configuration(mock.url), uds="gateway.sock")
    assert "gateway.sock" in findings(config, tmp_path / "data")["port"][1]


def test_a_missing_store_is_a_warning_and_not_made(tmp_path: Path, mock: RunningMock) -> None:
    config = written(tmp_path, configuration(mock.url))
    assert findings(config, tmp_path / "data")["store"][0] == "warn"
    assert not (tmp_path / "data").exists()


def test_a_damaged_store_fails(tmp_path: Path, mock: RunningMock) -> None:
    data = tmp_path / "data"
    Office(data).json("keys", "create", "--name", "one")
    (data / "master.key").write_bytes(b"short")
    result, detail = findings(written(tmp_path, configuration(mock.url)), data, 1)["store"]
    assert result == "fail" and "master.key should hold 32 bytes" in detail


def test_the_store_is_the_configured_one(tmp_path: Path, mock: RunningMock) -> None:
    config = written(tmp_path, {**configuration(mock.url), "data_dir": "elsewhere"})
    done = bifrost("doctor", "--config", config, "--json")
    assert str(tmp_path / "elsewhere") in done.out


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ({"servr": {}}, "did you mean 'server'?"),
        ({"providers": {"a": {"type": "anthropic"}}}, "providers.a.keys"),
    ],
)
def test_a_bad_configuration_fails(tmp_path: Path, config: dict[str, Any], told: str) -> None:
    found = findings(written(tmp_path, config), tmp_path / "data", 1)
    assert list(found) == ["configuration"] and found["configuration"][0] == "fail"
    assert told in found["configuration"][1]


def test_a_bad_price_file_fails(tmp_path: Path, mock: RunningMock) -> None:
    (tmp_path / "prices.json").write_text("{")
    config = written(tmp_path, {**configuration(mock.url), "prices": {"file": "prices.json"}})
    assert findings(config, tmp_path / "data", 1)["prices"][0] == "fail"


def test_without_a_configuration_the_mock_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    done = bifrost("doctor", "--data-dir", tmp_path / "data", "--json")
    assert "provider mock" in done.out and "the built-in mock" in done.out
