"""``bifrost connect``: the settings of coding agents, printed and written."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path

import pytest

from tests.commands import bifrost


def test_connect_prints_claudes_settings() -> None:
    done = bifrost(
        "connect", "claude", "--key", "sk-bf-x", "--url", "https://gw.example/anthropic/"
    )
    variables = done.json["env"]
    assert variables["ANTHROPIC_BASE_URL"] == "https://gw.example/anthropic"
    assert variables["ANTHROPIC_AUTH_TOKEN"] == "sk-bf-x"
    assert "YOUR-VIRTUAL-KEY" in bifrost("connect", "claude").out


def test_connect_merges_into_the_settings_file(tmp_path: Path) -> None:
    real, link = tmp_path / "dotfiles.json", tmp_path / "settings.json"
    write = ("connect", "claude", "--write", "--settings", link)
    assert bifrost(*write).code == 1 and not link.exists()
    assert bifrost(*write, "--key", "sk-bf-x").code == 0
    assert link.stat().st_mode & 0o777 == 0o600
    link.unlink()
    real.write_text('{"model": "opus", "env": {"A": "1", "ANTHROPIC_AUTH_TOKEN": "old"}}')
    real.chmod(0o644)
    link.symlink_to(real)
    assert bifrost(*write, "--key", "sk-bf-y").code == 0
    merged = json.loads(real.read_text())
    assert merged["model"] == "opus" and merged["env"]["A"] == "1"
    assert merged["env"]["ANTHROPIC_AUTH_TOKEN"] == "sk-bf-y"
    assert link.is_symlink() and real.stat().st_mode & 0o777 == 0o600
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dotfiles.json", "settings.json"]


@pytest.mark.parametrize("broken", ["{", "[]", '{"env": []}', ""])
def test_connect_leaves_a_broken_settings_file_alone(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "settings.json"
    path.write_text(broken)
    done = bifrost("connect", "claude", "--write", "--key", "sk-bf-x", "--settings", path)
    assert done.code == 1 and "mend it first" in done.err and path.read_text() == broken


def test_connect_prints_codexs_settings() -> None:
    done = bifrost("connect", "codex", "--key", "sk-bf-x", "--url", "https://gw.example/openai/v1/")
    settings = tomllib.loads(done.out)
    assert settings["model_provider"] == "bifrost"
    assert settings["model_providers"]["bifrost"] == {
        "name": "Bifrost",
        "base_url": "https://gw.example/openai/v1",
        "wire_api": "responses",
        "http_headers": {"x-bf-vk": "sk-bf-x"},
    }
    assert "YOUR-VIRTUAL-KEY" in bifrost("connect", "codex").out


def test_connect_merges_into_codexs_settings(tmp_path: Path) -> None:
    path = tmp_path / "codex" / "config.toml"
    write = ("connect", "codex", "--write", "--settings", path)
    assert bifrost(*write).code == 1 and not path.exists()
    assert bifrost(*write, "--key", "sk-bf-x").code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text(
        "# mine\nmodel = 'old'\n\n[model_providers.other]\nname = 'Other'\n"
        '[projects."/a"]\nb = 1\n'
    )
    assert bifrost(*write, "--key", "sk-bf-y", "--model", "gpt-5.1-codex").code == 0
    text = path.read_text()
    settings = tomllib.loads(text)
    assert "# mine" in text
    assert (settings["model"], settings["model_provider"]) == ("gpt-5.1-codex", "bifrost")
    assert settings["model_providers"]["other"] == {"name": "Other"}
    assert settings["model_providers"]["bifrost"]["http_headers"] == {"x-bf-vk": "sk-bf-y"}
    assert settings["projects"] == {"/a": {"b": 1}}
    assert bifrost(*write, "--key", "sk-bf-z").code == 0
    assert tomllib.loads(path.read_text())["model"] == "gpt-5.1-codex"


@pytest.mark.parametrize("broken", ["[", "model_providers = 1"])
def test_connect_leaves_broken_codex_settings_alone(tmp_path: Path, broken: str) -> None:
    path = tmp_path / "config.toml"
    path.write_text(broken)
    done = bifrost("connect", "codex", "--write", "--key", "sk-bf-x", "--settings", path)
    assert done.code == 1 and "mend" in done.err and path.read_text() == broken


def test_connect_prints_what_gemini_cli_needs() -> None:
    done = bifrost("connect", "gemini", "--key", "sk-bf-x", "--url", "https://gw.example/genai/")
    variables, _, settings = done.out.partition("{")
    assert variables.split() == [
        "GOOGLE_GEMINI_BASE_URL=https://gw.example/genai",
        "GEMINI_API_KEY=sk-bf-x",
    ]
    assert json.loads("{" + settings) == {"security": {"auth": {"selectedType": "gemini-api-key"}}}


def test_connect_keeps_gemini_clis_own_settings(tmp_path: Path) -> None:
    settings, variables = tmp_path / "settings.json", tmp_path / ".env"
    write = ("connect", "gemini", "--write", "--settings", settings)
    assert bifrost(*write).code == 1 and not settings.exists()
    settings.write_text('{"ui": {"theme": "x"}, "security": {"a": 1, "auth": {"b": 2}}}')
    variables.write_text("OTHER=1\nGEMINI_API_KEY=old\n")
    assert bifrost(*write, "--key", "sk-bf-y").code == 0
    assert json.loads(settings.read_text()) == {
        "ui": {"theme": "x"},
        "security": {"a": 1, "auth": {"b": 2, "selectedType": "gemini-api-key"}},
    }
    assert variables.read_text().splitlines() == [
        "OTHER=1",
        "GOOGLE_GEMINI_BASE_URL=http://127.0.0.1:8080/genai",
        "GEMINI_API_KEY=sk-bf-y",
    ]
    assert {path.stat().st_mode & 0o777 for path in tmp_path.iterdir()} == {0o600}
    for broken in ("[]", '{"security": []}', '{"security": {"auth": 1}}'):
        settings.write_text(broken)
        done = bifrost(*write, "--key", "sk-bf-z")
        assert done.code == 1 and "mend it first" in done.err
        assert settings.read_text() == broken and "sk-bf-y" in variables.read_text()


def test_connect_prints_opencodes_settings() -> None:
    done = bifrost("connect", "opencode", "--key", "sk-bf-x", "--url", "https://gw.example/")
    assert done.json == {
        "provider": {
            "bifrost": {
                "npm": "@ai-sdk/anthropic",
                "options": {"baseURL": "https://gw.example/anthropic/v1", "apiKey": "sk-bf-x"},
                "models": {"claude-sonnet-4-5": {}},
            }
        },
        "model": "bifrost/claude-sonnet-4-5",
    }
    assert "YOUR-VIRTUAL-KEY" in bifrost("connect", "opencode").out


def test_connect_keeps_opencodes_own_settings(tmp_path: Path) -> None:
    path = tmp_path / "opencode" / "opencode.json"
    write = ("connect", "opencode", "--write", "--settings", path)
    assert bifrost(*write).code == 1 and not path.exists()
    assert bifrost(*write, "--key", "sk-bf-x").code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    path.write_text('{"theme": "x", "model": "old", "provider": {"other": {"npm": "y"}}}')
    assert bifrost(*write, "--key", "sk-bf-y", "--model", "opus", "--model", "haiku").code == 0
    settings = json.loads(path.read_text())
    assert (settings["theme"], settings["model"]) == ("x", "bifrost/opus")
    assert settings["provider"]["other"] == {"npm": "y"}
    assert settings["provider"]["bifrost"]["models"] == {"opus": {}, "haiku": {}}
    for broken in ("[]", '{"provider": 1}', "{"):
        path.write_text(broken)
        done = bifrost(*write, "--key", "sk-bf-z")
        assert done.code == 1 and "mend it first" in done.err and path.read_text() == broken
