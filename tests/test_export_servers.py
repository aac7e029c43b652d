"""Exports against servers that other people made, and the stand-ins against other clients."""

from __future__ import annotations

import asyncio
import gzip
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from bifrost.audit.extracts import line
from bifrost.config.exports import (
    ElasticExport,
    OtlpExport,
    S3Export,
    SyslogExport,
)
from bifrost.exports import shipment
from bifrost.exports.progress import Progress
from bifrost.s3 import Bucket
from tests.authority import certify
from tests.collectors import Hec, Intake
from tests.commands import until
from tests.exporting import PATIENCE_S, House, change, request
from tests.seaweed import CREDENTIALS, Store, running
from tests.servers import Osmem, Rotel, Rsyslog

SMALL: dict[str, Any] = {"interval_s": 0.05, "max_entries": 50}


@pytest.fixture(autouse=True)
def brisk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Pauses are short."""
    monkeypatch.setattr(shipment, "SHORTEST_S", 0.05)


@pytest.fixture
def house(tmp_path: Path) -> Iterator[House]:
    found = House(tmp_path / "data")
    yield found
    found.close()


# -- OpenSearch ------------------------------------------------------------------------------------


@pytest.fixture
def search() -> Iterator[Osmem]:
    server = Osmem()
    yield server
    server.close()


@pytest.mark.parametrize("form", ["ecs", "native", "ocsf"])
def test_documents_are_in_the_index_once(house: House, search: Osmem, form: Any) -> None:
    """The index takes no text for ``session``'s field: the one entry that has one is refused."""
    strict = {"session": {"type": "long"}}
    places = {
        "ecs": {"bifrost": {"properties": {"model": {"properties": strict}}}},
        "native": {"entry": {"properties": strict}},
        "ocsf": {"unmapped": {"properties": strict}},
    }
    made = httpx.put(f"{search.url}/audit", json={"mappings": {"properties": places[form]}})
    assert made.status_code == 200, made.text
    house.write(*(request(n, session="poison" if n == 33 else None) for n in range(120)))
    house.start(ElasticExport(name="search", url=search.url, index="audit", format=form, **SMALL))
    house.caught_up("search")
    assert house.dead("search") == [33]
    ids = house.ids(range(120)) - house.ids([33]) | {f"{house.origin}/checkpoint/120"}
    found = search.hits("audit")
    assert set(found) == ids
    [told] = [one for one in house.told if one.action == "dead_letter"]
    assert "session" in told.why
    progress = Progress(house.data_dir)
    progress.reset("search", 0)
    progress.close()
    house.caught_up("search")
    assert set(search.hits("audit")) == ids
    if form == "native":
        one = found[f"{house.origin}/7"]
        assert one["entry"] == json.loads(house.entries[7])


# -- S3 --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running(tmp_path_factory.mktemp("weed")) as found:
        yield found


def exported(bucket: Bucket) -> dict[str, bytes]:
    _, _, listed = bucket._ask("GET", "", taken=(200,))
    found = {}
    for key in sorted(re.findall("<Key>(.*?)</Key>", listed.decode())):
        one = bucket.get(key)
        assert one is not None
        found[key] = gzip.decompress(one.data)
    return found


def sink(store: Store, bucket: str, **more: Any) -> S3Export:
    given: dict[str, Any] = {
        "name": "store", "url": store.endpoint, "bucket": bucket,
        "access_key": CREDENTIALS.access_key_id, "token": CREDENTIALS.secret_access_key, **SMALL,
    }  # fmt: skip
    return S3Export(**{**given, **more})


def test_objects_hold_every_entry_and_cannot_be_deleted(house: House, store: Store) -> None:
    bucket = store.create("worm", locked=True)
    house.write(*(request(n) for n in range(120)))
    house.start(sink(store, "worm", lock="compliance", lock_days=1, prefix="odd name+ü/"))
    house.caught_up("store")
    objects = exported(bucket)
    assert len(objects) == 3
    assert all(key.startswith("odd name+ü/bifrost-audit-") for key in objects)
    lines = [line for raw in objects.values() for line in raw.splitlines()]
    found = [json.loads(line) for line in lines]
    told = [one for one in found if "entry" in one]
    assert [one["index"] for one in told] == list(range(120))
    for written, raw in zip(lines[:50], house.entries, strict=False):
        assert raw in written
    assert found[-1]["checkpoint"].split("\n")[1] == "120"
    first = bucket.head(next(iter(objects)))
    assert first is not None and first.version
    assert not bucket.delete(next(iter(objects)), first.version)


def test_a_store_that_has_the_object_and_one_that_knows_another_secret(
    house: House, store: Store
) -> None:
    bucket = store.create("plain")
    house.write(*(request(n) for n in range(20)))
    house.start(sink(store, "plain", token="wrong"))
    until(lambda: house.standing("store").failures >= 2, PATIENCE_S)
    assert "403" in house.standing("store").error
    house.stop()
    house.start(sink(store, "plain"))
    house.caught_up("store")
    before = exported(bucket)
    progress = Progress(house.data_dir)
    progress.reset("store", 0)
    progress.close()
    house.caught_up("store")
    assert exported(bucket) == before
    assert house.standing("store").failures == 0


# -- syslog ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("tls", [False, True], ids=["tcp", "tls"])
def test_syslog_is_understood_whole(house: House, tmp_path: Path, tls: bool) -> None:
    files = tls_files(tmp_path) if tls else None
    server = Rsyslog(tmp_path / "rsyslog", files)
    try:
        odd = 'a "quoted" ] \\ name\nover two lines, ünïcode €'
        house.write(
            *(request(n, agent="x" * (40_000 if n == 9 else 1)) for n in range(60)),
            change(1, name=odd),
            request(61, outcome="refused"),
        )
        scheme = "tls" if tls else "tcp"
        house.start(
            SyslogExport(
                name="syslog", url=f"{scheme}://127.0.0.1:{server.port}", hostname="gw1",
                ca_file=str(files[0]) if files else None, **SMALL,
            )
        )  # fmt: skip
        house.caught_up("syslog")
        until(lambda: len(server.messages()) >= 64, PATIENCE_S)
        found = server.messages()
        told = [one for one in found if one["msgid"] != "checkpoint"]
        bodies = [json.loads(one["msg"].lstrip("\ufeff")) for one in told]
        assert [one["index"] for one in bodies] == list(range(62))
        assert {one["version"] for one in found} == {"1"}
        assert {one["host"] for one in found} == {"gw1"}
        assert {one["app"] for one in found} == {"bifrost"}
        assert [one["msgid"] for one in told[-2:]] == ["policy", "model"]
        assert [one["pri"] for one in told[-2:]] == [str(13 * 8 + 6), str(13 * 8 + 4)]
        assert bodies[60]["entry"]["name"] == odd
        assert told[5]["data"] == (
            f'[bifrost@32473 id="{house.origin}/5" index="5" hash="{bodies[5]["hash"]}"]'
        )
    finally:
        server.close()


def test_a_syslog_server_that_restarts_gets_what_it_missed(house: House, tmp_path: Path) -> None:
    server = Rsyslog(tmp_path / "one")
    port = server.port
    sink = SyslogExport(name="syslog", url=f"tcp://127.0.0.1:{port}", timeout_s=2, **SMALL)
    try:
        house.write(*(request(n) for n in range(10)))
        house.start(sink)
        house.caught_up("syslog")
        until(lambda: len(server.messages()) >= 11, PATIENCE_S)
        server.close()
        house.write(*(request(n) for n in range(10)))
        until(lambda: house.standing("syslog").failures, PATIENCE_S)
        house.stop()
        second = Rsyslog(tmp_path / "two")
        house.start(SyslogExport(name="syslog", url=f"tcp://127.0.0.1:{second.port}", **SMALL))
        try:
            house.caught_up("syslog")
            until(lambda: len(second.messages()) >= 11, PATIENCE_S)
            indexes = [
                json.loads(one["msg"].lstrip("\ufeff"))["index"]
                for one in second.messages()
                if one["msgid"] != "checkpoint"
            ]
            assert indexes == list(range(10, 20))
        finally:
            second.close()
    finally:
        server.close()


def tls_files(folder: Path) -> tuple[Path, Path, Path]:
    """The files of an authority, a certificate and its key."""
    authority, _ = certify(folder)
    chain = folder / "chain.pem"
    return Path(authority), chain, chain


# -- OTLP ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("encoding", ["protobuf", "json"])
def test_a_collector_decodes_our_records(house: House, tmp_path: Path, encoding: Any) -> None:
    server = Rotel(tmp_path / "rotel")
    try:
        house.write(*(request(n) for n in range(7)), request(7, outcome="broken"))
        house.start(OtlpExport(name="otlp", url=server.url, encoding=encoding, **SMALL))
        house.caught_up("otlp")
        until(lambda: f"{house.origin}/7" in server.printed(), PATIENCE_S)
        printed = re.sub(r"\x1b\[[0-9;]*m", "", server.printed())
        for index in range(8):
            assert f"{house.origin}/{index}" in printed
        assert "bifrost.model" in printed and "service.name" in printed
        assert "WARN" in printed
    finally:
        server.close()


# -- the stand-ins, by other people's clients ------------------------------------------------------


def test_another_client_of_splunk_gets_on_with_our_collector() -> None:
    splunk = pytest.importorskip("hass_splunk", reason="hass-splunk is not there: NOT COMPARED")
    import aiohttp

    hec = Hec("t0ken")

    async def send(token: str, payload: Any) -> None:
        async with aiohttp.ClientSession() as session:
            client = splunk.hass_splunk(
                session, token, "127.0.0.1", port=hec.port, use_ssl=False, verify_ssl=False
            )
            await client.queue(payload, send=False)
            await client.queue({"time": 5, "event": "two"}, send=False)
            await client.send()

    try:
        asyncio.run(send("t0ken", {"time": 1.5, "host": "h", "event": {"a": 1}}))
        assert sorted(hec.taken) == ["foreign 0", "foreign 1"]
        for token, payload, code in (
            ("wrong", {"event": 1}, 4), ("t0ken", {"time": 1}, 12), ("t0ken", {"event": ""}, 13),
        ):  # fmt: skip
            with pytest.raises(splunk.SplunkPayloadError) as caught:
                asyncio.run(send(token, payload))
            assert caught.value.code == code
    finally:
        hec.close()


def test_datadogs_own_client_gets_on_with_our_intake() -> None:
    datadog = pytest.importorskip(
        "datadog_api_client", reason="datadog-api-client is not there: NOT COMPARED"
    )
    from datadog_api_client.exceptions import ApiException
    from datadog_api_client.v2.api.logs_api import LogsApi
    from datadog_api_client.v2.model.content_encoding import ContentEncoding
    from datadog_api_client.v2.model.http_log import HTTPLog
    from datadog_api_client.v2.model.http_log_item import HTTPLogItem

    intake = Intake("k3y")
    logs = HTTPLog([HTTPLogItem(ddsource="x", ddtags="a:b", message="hi", service="s")])

    def submit(key: str) -> None:
        configuration = datadog.Configuration(
            server_index=1,
            server_variables={"protocol": "http", "name": f"127.0.0.1:{intake.port}"},
        )
        configuration.api_key["apiKeyAuth"] = key
        with datadog.ApiClient(configuration) as client:
            LogsApi(client).submit_log(logs, content_encoding=ContentEncoding.GZIP)

    try:
        submit("k3y")
        assert intake.documents["foreign 0"]["message"] == "hi"
        with pytest.raises(ApiException) as caught:
            submit("wrong")
        assert caught.value.status == 403
    finally:
        intake.close()


def test_a_line_of_a_file_is_what_the_command_exports(house: House, tmp_path: Path) -> None:
    """The same entry, hash and origin as ``bifrost audit export`` tells."""
    from bifrost.config.exports import FileExport

    house.write(*(request(n) for n in range(3)))
    path = tmp_path / "out.jsonl"
    house.start(FileExport(name="file", path=str(path), **SMALL))
    house.caught_up("file")
    for raw, (index, entry) in zip(
        path.read_bytes().splitlines(), enumerate(house.entries), strict=False
    ):
        ours, theirs = json.loads(raw), json.loads(line(house.origin, index, entry))
        assert {name: ours[name] for name in theirs} == theirs
