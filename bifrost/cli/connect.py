"""``bifrost connect``: a coding agent's settings for this gateway."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import click
import tomlkit

from bifrost.errors import ConfigError

PLACEHOLDER = "sk-bf-YOUR-VIRTUAL-KEY"
OPENCODE_MODEL = "claude-sonnet-4-5"
Command = TypeVar("Command", bound=Callable[..., None])


def environment(url: str, key: str) -> dict[str, str]:
    """The variables Claude Code needs; the last three keep it quiet and attributable."""
    return {
        "ANTHROPIC_BASE_URL": f"{url}/anthropic",
        "ANTHROPIC_AUTH_TOKEN": key,
        "CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC": "1",
        "CLAUDE_CODE_ENABLE_GATEWAY_MODEL_DISCOVERY": "1",
        "CLAUDE_CODE_GATEWAY_HINT_HEADERS": "1",
    }


def snippet(url: str, key: str) -> str:
    """Claude Code's settings.json as text."""
    return json.dumps({"env": environment(url, key)}, indent=2)


def _settings(place: str, whose: str) -> Callable[[Command], Command]:
    """The options that all agents have in common; ``whose`` says what lies at ``place``."""
    options = (
        click.option("--key", default=PLACEHOLDER, help="The virtual key."),
        click.option(
            "--url", default="http://127.0.0.1:8080", show_default=True, help="This gateway."
        ),
        click.option("--write", is_flag=True, help="Merge into the settings instead of printing."),
        click.option(
            "--settings", "path", type=click.Path(dir_okay=False, path_type=Path),
            default=Path(place), show_default=True, help=whose,
        ),
    )  # fmt: skip

    def put(command: Command) -> Command:
        for option in reversed(options):
            command = option(command)
        return command

    return put


def _written(key: str, path: Path) -> Path:
    """The file to write, a link followed; ConfigError where there is no key to write."""
    if key == PLACEHOLDER:
        raise ConfigError("Name the virtual key to write with --key sk-bf-...")
    return path.expanduser().resolve()


@click.group("connect")
def connect() -> None:
    """Print or write a coding agent's settings.

    \b
    Example:
      bifrost connect claude --key sk-bf-... --write
    """


@connect.command("claude")
@_settings("~/.claude/settings.json", "Claude Code's settings file.")
def claude(key: str, url: str, write: bool, path: Path) -> None:
    """Claude Code: the env block of its settings.json.

    \b
    Example:
      bifrost connect claude --key sk-bf-... --url https://gateway.example --write
    """
    url = url.rstrip("/").removesuffix("/anthropic")
    if not write:
        click.echo(snippet(url, key))
        return
    path = _written(key, path)
    merged = _merged(path, environment(url, key))
    _write(path, json.dumps(merged, indent=2) + "\n")
    click.echo(f"Wrote {path}; Claude Code uses the gateway from its next start.")


@connect.command("codex")
@_settings("~/.codex/config.toml", "Codex's settings file.")
@click.option("--model", help="The model to ask for; without it Codex asks for its own default.")
def codex(key: str, url: str, model: str | None, write: bool, path: Path) -> None:
    """Codex CLI: a model provider in its config.toml.

    \b
    Example:
      bifrost connect codex --key sk-bf-... --url https://gateway.example --write
    """
    url = url.rstrip("/").removesuffix("/v1").removesuffix("/openai")
    if not write:
        click.echo(_provided(tomlkit.document(), url, key, model), nl=False)
        return
    path = _written(key, path)
    try:
        settings = tomlkit.parse(path.read_text() if path.exists() else "")
    except ValueError as error:
        raise ConfigError(f"{path} is not valid TOML ({error}); mend it first.") from None
    _write(path, _provided(settings, url, key, model))
    click.echo(f"Wrote {path}; Codex uses the gateway from its next start.")


def _provided(settings: tomlkit.TOMLDocument, url: str, key: str, model: str | None) -> str:
    """Codex's settings with the gateway as its provider; everything else is kept.

    Codex ignores OPENAI_BASE_URL, and a provider of one's own is not asked for by WebSocket. The
    key is a header of its own, so that no environment variable is needed.
    """
    if model is not None:
        settings["model"] = model
    settings["model_provider"] = "bifrost"
    provider = tomlkit.table()
    provider.update({"name": "Bifrost", "base_url": f"{url}/openai/v1", "wire_api": "responses"})
    headers = tomlkit.inline_table()
    headers["x-bf-vk"] = key
    provider["http_headers"] = headers
    try:
        settings.setdefault("model_providers", tomlkit.table(is_super_table=True))
        settings["model_providers"]["bifrost"] = provider
    except TypeError:
        raise ConfigError("model_providers is no table; mend Codex's settings first.") from None
    return tomlkit.dumps(settings)


@connect.command("gemini")
@_settings("~/.gemini/settings.json", "Gemini CLI's settings file; its .env stands beside it.")
def gemini(key: str, url: str, write: bool, path: Path) -> None:
    """Gemini CLI: variables in its .env, and how it signs in, in its settings.json.

    \b
    Example:
      bifrost connect gemini --key sk-bf-... --url https://gateway.example --write
    """
    url = url.rstrip("/").removesuffix("/genai")
    variables = {"GOOGLE_GEMINI_BASE_URL": f"{url}/genai", "GEMINI_API_KEY": key}
    if not write:
        click.echo("\n".join(f"{name}={value}" for name, value in variables.items()))
        click.echo(json.dumps(_signing_in({}, path), indent=2))
        return
    path = _written(key, path)
    beside = path.with_name(".env").resolve()
    merged = json.dumps(_signing_in(_object(path), path), indent=2) + "\n"
    lines = beside.read_text().splitlines() if beside.exists() else []
    kept = [line for line in lines if line.partition("=")[0].strip() not in variables]
    _write(beside, "\n".join([*kept, *(f"{k}={v}" for k, v in variables.items()), ""]))
    _write(path, merged)
    click.echo(f"Wrote {path} and {beside}; Gemini CLI uses the gateway from its next start.")


def _signing_in(settings: dict[str, Any], path: Path) -> dict[str, Any]:
    """Gemini CLI's settings with a key as the way to sign in: with an address alone it picks a way
    that it then refuses. Everything else is kept."""
    inside, told = settings, {**settings}
    merged = told
    for name in ("security", "auth"):
        inside = inside.get(name, {})
        if not isinstance(inside, dict):
            raise ConfigError(f"{path}: {name} is no object; mend it first.")
        merged[name] = {**inside}
        merged = merged[name]
    merged["selectedType"] = "gemini-api-key"
    return told


@connect.command("opencode")
@_settings("~/.config/opencode/opencode.json", "opencode's settings file.")
@click.option(
    "--model", "models", multiple=True, default=[OPENCODE_MODEL], show_default=True,
    help="A model to ask for; may repeat, the first one is used.",
)  # fmt: skip
def opencode(key: str, url: str, models: tuple[str, ...], write: bool, path: Path) -> None:
    """opencode: a provider in its opencode.json, asked by Anthropic's Messages.

    \b
    Example:
      bifrost connect opencode --key sk-bf-... --url https://gateway.example --write
    """
    url = url.rstrip("/").removesuffix("/v1").removesuffix("/anthropic")
    if not write:
        click.echo(json.dumps(_asking({}, path, url, key, models), indent=2))
        return
    path = _written(key, path)
    merged = _asking(_object(path), path, url, key, models)
    _write(path, json.dumps(merged, indent=2) + "\n")
    click.echo(f"Wrote {path}; opencode uses the gateway from its next start.")


def _asking(
    settings: dict[str, Any], path: Path, url: str, key: str, models: tuple[str, ...]
) -> dict[str, Any]:
    """opencode's settings with the gateway as a provider and its first model chosen; everything
    else is kept. In that dialect it shows why a budget refuses, once."""
    others = settings.get("provider", {})
    if not isinstance(others, dict):
        raise ConfigError(f"{path}: provider is no object; mend it first.")
    provider = {
        "npm": "@ai-sdk/anthropic",
        "options": {"baseURL": f"{url}/anthropic/v1", "apiKey": key},
        "models": {model: {} for model in models},
    }
    chosen = {"provider": {**others, "bifrost": provider}, "model": f"bifrost/{models[0]}"}
    return {**settings, **chosen}


def _write(path: Path, text: str) -> None:
    """Replaces a file that only its owner may read, whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(path.name + ".bifrost-new")
    descriptor = os.open(fresh, os.O_CREAT | os.O_TRUNC | os.O_WRONLY, 0o600)
    with os.fdopen(descriptor, "w") as file:
        os.fchmod(descriptor, 0o600)
        file.write(text)
    fresh.replace(path)


def _merged(path: Path, variables: dict[str, str]) -> dict[str, Any]:
    """The settings already there with the variables set; everything else is kept."""
    settings = _object(path)
    if not isinstance(settings.get("env", {}), dict):
        raise ConfigError(f"{path} does not hold an object with an object env; mend it first.")
    return {**settings, "env": {**settings.get("env", {}), **variables}}


def _object(path: Path) -> dict[str, Any]:
    """The JSON object of a file, an empty one where there is no file."""
    settings: Any = {}
    if path.exists():
        try:
            settings = json.loads(path.read_text())
        except ValueError as error:
            raise ConfigError(f"{path} is not valid JSON ({error}); mend it first.") from None
    if not isinstance(settings, dict):
        raise ConfigError(f"{path} does not hold an object; mend it first.")
    return settings
