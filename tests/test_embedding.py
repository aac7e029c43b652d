"""Bifrost inside other programs: ASGI servers, mounts, the core alone, and the documented code."""

from __future__ import annotations

import asyncio
import json
import re
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
import uvicorn

from bifrost import Gateway, Refusal, create_app
from bifrost.config.load import default_settings, load
from bifrost.metering.usage import Usage
from tests.commands import Office
from tests.running import KEY, RunningMock, bearer, budget, configuration, environment, message

DOCS = Path(__file__).parent.parent / "docs" / "embedding.md"
POOR = "sk-bf-" + "poorpoor" * 5
HAIKU = "sk-bf-" + "haikuonl" * 5
SERVERS = {
    "uvicorn": ["-m", "uvicorn", "gateway:app", "--log-level", "warning", "--port"],
    "granian": ["-m", "granian", "--interface", "asgi", "--log-level", "warning", "gateway:app",
                "--port"],
    "hypercorn": ["-m", "hypercorn", "gateway:app", "--bind"],
}  # fmt: skip
SHARER = """
import json, sys
from bifrost import Gateway, Refusal

gateway = Gateway.open("bifrost.json", data_dir="data")
body = json.dumps({"model": "claude-sonnet-4-5", "max_tokens": 1000, "messages": []}).encode()
print("ready", flush=True)
for line in sys.stdin:
    try:
        ticket = gateway.admit({"x-bf-vk": sys.argv[1]}, body=body)
        print(ticket.reserved, flush=True)
    except Refusal as refusal:
        print(refusal.code, flush=True)
gateway.close()
"""


def prepared(folder: Path, upstream: str | None = None) -> Path:
    """A folder with ``bifrost.json`` for the core alone or before a provider."""
    config = configuration(upstream or "http://127.0.0.1:9")
    config["governance"]["virtual_keys"] += [
        {"name": "poor", "value": POOR, "budgets": budget("0.02")},
        {
            "name": "haiku",
            "value": HAIKU,
            "provider_configs": [{"allowed_models": ["claude-haiku-*"]}],
        },
    ]
    (folder / "bifrost.json").write_text(json.dumps({**config, "data_dir": "data"}))
    return folder / "bifrost.json"


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port: int = probe.getsockname()[1]
        return port


@contextmanager
def program(folder: Path, *arguments: str) -> Iterator[subprocess.Popen[str]]:
    """A Python program in ``folder``."""
    with (folder / "program.log").open("wb") as log:
        process = subprocess.Popen(
            [sys.executable, *arguments],
            cwd=folder, env=environment(), text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=log,
        )  # fmt: skip
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=15)
            except subprocess.TimeoutExpired:
                process.kill()
                process.communicate()


def answering(url: str, folder: Path) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline:
        try:
            if httpx.get(f"{url}/health").status_code == 200:
                return
        except httpx.TransportError:
            time.sleep(0.05)
    raise AssertionError((folder / "program.log").read_text())


def asked(url: str) -> None:
    """A JSON and a streamed request are answered, an unknown key is not."""
    whole = httpx.post(f"{url}/anthropic/v1/messages", json=message(), headers=bearer())
    assert whole.status_code == 200 and whole.json()["type"] == "message", whole.text
    assert float(whole.headers["x-bf-cost-usd"]) > 0
    body = message(stream=True)
    with httpx.stream("POST", f"{url}/v1/messages", json=body, headers=bearer()) as parts:
        text = "".join(parts.iter_text())
    assert parts.status_code == 200 and text.count("event: message_stop") == 1
    refused = httpx.post(f"{url}/v1/messages", json=message(), headers=bearer("sk-bf-none"))
    assert (refused.status_code, refused.headers["x-bf-error"]) == (401, "virtual_key_not_found")


def booked(data_dir: Path) -> None:
    """Both requests are in the report and in the budget, to the nano-dollar."""
    office = Office(data_dir)
    [row] = office.json("usage", "--by", "key")["rows"]
    [held] = office.json("keys", "show", "alice-dev")["budgets"]
    assert (row["key"], row["requests"], held["reserved"]) == ("alice-dev", 2, "0")
    assert row["cost_usd"] == held["current_usage"] and float(row["cost_usd"]) > 0


@pytest.mark.parametrize("server", SERVERS)
def test_under_every_asgi_server(server: str, mock: RunningMock, tmp_path: Path) -> None:
    prepared(tmp_path, mock.url)
    (tmp_path / "gateway.py").write_text(blocks("gateway.py"))
    port = free_port()
    where = f"127.0.0.1:{port}" if server == "hypercorn" else str(port)
    with program(tmp_path, *SERVERS[server], where):
        answering(f"http://127.0.0.1:{port}", tmp_path)
        asked(f"http://127.0.0.1:{port}")
        booked(tmp_path / "data")
    log = (tmp_path / "program.log").read_text()
    assert "Traceback" not in log and KEY not in log
    leftover = list((tmp_path / "data" / "state").glob("owner-*.lock"))
    assert leftover == []  # its lifespan closed the stores


@contextmanager
def running(app: Any, **options: Any) -> Iterator[str]:
    """An app under uvicorn in this process, in a thread of its own."""
    server = uvicorn.Server(uvicorn.Config(app, log_config=None, access_log=False, **options))
    sock = socket.create_server(("127.0.0.1", 0))
    thread = threading.Thread(target=server.run, kwargs={"sockets": [sock]})
    thread.start()
    try:
        yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    finally:
        server.should_exit = True
        thread.join(20)
        sock.close()


class Router:
    """A plain ASGI router that strips its prefix, as some frameworks do; it knows no lifespan."""

    def __init__(self, inner: Any) -> None:
        self.inner = inner

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        assert scope["type"] == "http" and scope["path"].startswith("/gw/")
        inside = {**scope, "root_path": "/gw", "path": scope["path"].removeprefix("/gw")}
        await self.inner(inside, receive, send)


def test_in_this_process_behind_a_plain_router(mock: RunningMock, tmp_path: Path) -> None:
    app = create_app(prepared(tmp_path, mock.url), data_dir=tmp_path / "data")
    with running(Router(app), lifespan="off", loop="asyncio") as url:
        answering(f"{url}/gw", tmp_path)
        asked(f"{url}/gw")
        assert httpx.get(f"{url}/gw/ready").json()["status"] == "ready"
        asyncio.run_coroutine_threadsafe(app.stop(), app_loop(app)).result(10)
    booked(tmp_path / "data")


def app_loop(app: Any) -> asyncio.AbstractEventLoop:
    loop: asyncio.AbstractEventLoop = app._keeper.get_loop()
    return loop


def test_in_this_process_with_its_own_mock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ANTHROPIC_API_KEY", raising=False)
    (tmp_path / "bifrost.json").write_text(
        json.dumps({"governance": configuration("http://x")["governance"]})
    )
    app = create_app(tmp_path / "bifrost.json", data_dir=tmp_path / "data")
    with running(app, lifespan="on") as url:
        asked(url)
    booked(tmp_path / "data")
    assert create_app(data_dir=tmp_path).settings == default_settings()
    loaded = load(tmp_path / "bifrost.json")
    for form in (loaded, loaded.settings):
        assert list(create_app(form, data_dir=tmp_path).settings.providers) == ["mock"]


# -- the core alone ----------------------------------------------------------------------------


@pytest.fixture
def gateway(tmp_path: Path) -> Iterator[Gateway]:
    opened = Gateway.open(prepared(tmp_path), data_dir=tmp_path / "data")
    yield opened
    opened.close()


def body(**changes: Any) -> bytes:
    return json.dumps(message(**changes)).encode()


def vk(key: str = KEY) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


def test_a_plain_asyncio_program_pays_exactly(gateway: Gateway, tmp_path: Path) -> None:
    async def one(usage: Any) -> int:
        ticket = gateway.admit(vk(), body=body())
        assert (ticket.provider, ticket.model) == ("anthropic", "claude-sonnet-4-5")
        assert ticket.reserved >= 1000 * 15_000
        await asyncio.sleep(0)
        return gateway.settle(ticket, usage)

    async def program() -> list[int]:
        usages: list[Any] = [
            {"input_tokens": 10, "output_tokens": 4},
            b'{"input_tokens": 10, "output_tokens": 4, "cache_read_input_tokens": 100}',
            Usage(in_fresh=10, out_text=4, in_cache_w5m=8, source="reported"),
        ]
        return await asyncio.gather(*(one(usage) for usage in usages))

    # Per token: input 3,000, output 15,000, cache read 300, cache write 3,750 nano-USD.
    costs = asyncio.run(program())
    assert costs == [90_000, 120_000, 120_000]
    released = gateway.admit(vk(), body=body())
    gateway.release(released)
    gateway.close()
    office = Office(tmp_path / "data")
    for group, name in (
        ("keys", "alice-dev"), ("users", "alice"), ("teams", "core"), ("customers", "acme"),
    ):  # fmt: skip
        [one_budget] = office.json(group, "show", name)["budgets"]
        assert (one_budget["current_usage"], one_budget["reserved"]) == ("0.00033", "0")
    [row] = office.json("usage")["rows"]
    assert (row["requests"], row["input_tokens"], row["cost_usd"]) == (4, 30, "0.00033")


@pytest.mark.parametrize(
    ("headers", "raw", "code", "status"),
    [
        ({}, body(), "virtual_key_required", 401),
        (vk("sk-bf-none"), body(), "virtual_key_not_found", 401),
        (vk(HAIKU), body(), "model_blocked", 400),
        (vk(POOR), body(max_tokens=64_000), "budget_exceeded", 402),
        (vk(), b"{", "invalid_request", 400),
        (vk(), b'{"max_tokens": 5}', "invalid_request", 400),
        (vk(), b'{"model": "claude-sonnet-4-5"}', "invalid_request", 400),
        ({**vk(), "x": "鍵"}, body(), "invalid_request", 400),
        (vk(), body(fallbacks=[{"model": "claude-opus-4-5"}]), "field_blocked", 400),
    ],
)
def test_refusals_hold_nothing(
    gateway: Gateway, headers: dict[str, str], raw: bytes, code: str, status: int
) -> None:
    with pytest.raises(Refusal) as caught:
        gateway.admit(headers, body=raw)
    assert (caught.value.code, caught.value.status) == (code, status)
    assert str(caught.value)
    if code == "budget_exceeded":
        assert caught.value.level == "virtual key" and caught.value.resets_at > time.time()
    assert gateway._core.gate.reservations() == []


def test_a_ticket_is_spent_once(gateway: Gateway) -> None:
    ticket = gateway.admit([(b"X-BF-VK", KEY.encode())], body=body(), model="claude-haiku-4-5")
    assert ticket.model == "claude-haiku-4-5"
    assert gateway.settle(ticket, {"input_tokens": 1, "output_tokens": 1}) == 6000
    for again in (lambda: gateway.settle(ticket, {}), lambda: gateway.release(ticket)):
        with pytest.raises(ValueError, match="already settled or released"):
            again()
    assert gateway.admit(vk(), body=body()).remaining == 75 * 10**9 - 6000 - ticket_size(gateway)
    gateway.refresh()


def ticket_size(gateway: Gateway) -> int:
    """What one such request reserves."""
    ticket = gateway.admit(vk(HAIKU), body=body(model="claude-haiku-4-5"))
    gateway.release(ticket)
    same = gateway.admit(vk(), body=body())
    gateway.release(same)
    return same.reserved


def test_a_declared_key_without_value_is_shown_at_the_opening(tmp_path: Path) -> None:
    config = tmp_path / "bifrost.json"
    config.write_text('{"governance": {"virtual_keys": [{"name": "ci"}]}}')
    opened = Gateway.open(config, data_dir=tmp_path / "data", steward=False)
    [minted] = opened.minted
    assert minted.name == "ci" and opened.admit(vk(minted.secret), body=body()).remaining == -1
    opened.close()
    again = Gateway.open(load(config), data_dir=tmp_path / "data")
    assert again.minted == ()
    again.close()


def test_two_processes_share_one_budget(tmp_path: Path) -> None:
    prepared(tmp_path)
    with (
        program(tmp_path, "-c", SHARER, POOR) as first,
        program(tmp_path, "-c", SHARER, POOR) as second,
    ):
        answers = []
        for process in (first, second) * 2:
            assert process.stdin is not None and process.stdout is not None
            if len(answers) < 2:
                assert process.stdout.readline() == "ready\n"
            process.stdin.write("go\n")
            process.stdin.flush()
            answers.append(process.stdout.readline().strip())
    # 0.02 USD hold one such request (0.015 and a little), whoever asks.
    assert answers[0].isdigit() and 0.015e9 < int(answers[0]) < 0.02e9
    assert answers[1:] == ["budget_exceeded"] * 3


# -- the documented code -----------------------------------------------------------------------


def blocks(name: str) -> str:
    """The code block of the documentation that begins with this file name."""
    found = re.search(rf"```python\n# {re.escape(name)}\n(.*?)```", DOCS.read_text(), re.S)
    assert found, name
    return found[1]


def documented(folder: Path) -> None:
    text = DOCS.read_text()
    config = re.search(r"```json\n(.*?)```", text, re.S)
    assert config
    (folder / "bifrost.json").write_text(config[1])
    for name in re.findall(r"```python\n# (\S+)\n", text):
        (folder / name).write_text(blocks(name))


def test_the_documented_core_program(tmp_path: Path) -> None:
    documented(tmp_path)
    done = subprocess.run(
        [sys.executable, "-W", "error", "core.py"],
        cwd=tmp_path, env=environment(), capture_output=True, text=True, timeout=30, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert f"```\n{done.stdout}```" in DOCS.read_text()


def test_the_documented_mount(tmp_path: Path) -> None:
    documented(tmp_path)
    port = free_port()
    with program(tmp_path, "-m", "uvicorn", "mounted:app", "--port", str(port)) as process:
        url = f"http://127.0.0.1:{port}"
        answering(f"{url}/gw", tmp_path)
        assert httpx.get(url).text == "our own page"
        asked(f"{url}/gw")
        booked(tmp_path / "data")
    assert process.returncode in (0, -15)
    assert "Traceback" not in (tmp_path / "program.log").read_text()
