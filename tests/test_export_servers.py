"""Exports against servers that other people made, and the stand-ins against other clients."""

from __future__ import annotations

import asyncio
import gzip
import json
import random
import re
import string
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote

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
from bifrost.exports.sigv4 import Signer
from tests.authority import certify
from tests.collectors import Hec, Intake
from tests.commands import until
from tests.exporting import PATIENCE_S, House, change, request
from tests.servers import Rotel, Rsyslog, Seaweed

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
def search() -> Iterator[str]:
    osmem = pytest.importorskip(
        "osmem_server", reason="osmem-server is not there: _bulk NOT TESTED against a real server"
    )
    server = osmem.OsmemServer.start(japanese=False)
    yield server.url
    server.process.stdin.close()
    server.process.terminate()
    server.process.wait(15)
    server.process.stdout.close()


def hits(url: str) -> dict[str, Any]:
    httpx.post(f"{url}/audit/_refresh")
    found = httpx.post(f"{url}/audit/_search", json={"size": 1000}).json()
    return {one["_id"]: one["_source"] for one in found["hits"]["hits"]}


@pytest.mark.parametrize("form", ["ecs", "native", "ocsf"])
def test_documents_are_in_the_index_once(house: House, search: str, form: Any) -> None:
    """The index takes no text for ``session``'s field: the one entry that has one is refused."""
    strict = {"session": {"type": "long"}}
    places = {
        "ecs": {"bifrost": {"properties": {"model": {"properties": strict}}}},
        "native": {"entry": {"properties": strict}},
        "ocsf": {"unmapped": {"properties": strict}},
    }
    made = httpx.put(f"{search}/audit", json={"mappings": {"properties": places[form]}})
    assert made.status_code == 200, made.text
    house.write(*(request(n, session="poison" if n == 33 else None) for n in range(120)))
    house.start(ElasticExport(name="search", url=search, index="audit", format=form, **SMALL))
    house.caught_up("search")
    assert house.dead("search") == [33]
    ids = house.ids(range(120)) - house.ids([33]) | {f"{house.origin}/checkpoint/120"}
    found = hits(search)
    assert set(found) == ids
    [told] = [one for one in house.told if one.action == "dead_letter"]
    assert "session" in told.why
    progress = Progress(house.data_dir)
    progress.reset("search", 0)
    progress.close()
    house.caught_up("search")
    assert set(hits(search)) == ids
    if form == "native":
        one = found[f"{house.origin}/7"]
        assert one["entry"] == json.loads(house.entries[7])


# -- S3 --------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Seaweed]:
    server = Seaweed(tmp_path_factory.mktemp("s3") / "weed")
    yield server
    server.close()


def exported(store: Seaweed, bucket: str) -> dict[str, bytes]:
    listed = store.ask("GET", f"/{bucket}").text
    keys = re.findall("<Key>(.*?)</Key>", listed)
    return {key: store.ask("GET", f"/{bucket}/{key}").content for key in sorted(keys)}


def test_objects_hold_every_entry_and_cannot_be_deleted(house: House, store: Seaweed) -> None:
    lockable = {"x-amz-bucket-object-lock-enabled": "true"}
    assert store.ask("PUT", "/worm", headers=lockable).status_code == 200
    house.write(*(request(n) for n in range(120)))
    house.start(
        S3Export(
            name="store", url=store.url, bucket="worm", access_key=store.ACCESS,
            token=store.SECRET, lock="compliance", lock_days=1, prefix="odd name+ü/", **SMALL,
        )
    )  # fmt: skip
    house.caught_up("store")
    objects = exported(store, "worm")
    assert len(objects) == 3
    assert all(key.startswith("odd name+ü/bifrost-audit-") for key in objects)
    lines = [one for raw in objects.values() for one in gzip.decompress(raw).splitlines()]
    found = [json.loads(one) for one in lines]
    told = [one for one in found if "entry" in one]
    assert [one["index"] for one in told] == list(range(120))
    for one, raw in zip(lines[:50], house.entries, strict=False):
        assert raw in one
    assert found[-1]["checkpoint"].split("\n")[1] == "120"
    first = next(iter(objects))
    kept = store.ask("GET", f"/worm/{first}").headers
    assert kept["x-amz-object-lock-mode"] == "COMPLIANCE"
    version = kept["x-amz-version-id"]  # without it there would only be a mark of deletion
    assert store.ask("DELETE", f"/worm/{first}", query=f"versionId={version}").status_code == 403


def test_a_store_that_has_the_object_and_one_that_knows_another_secret(
    house: House, store: Seaweed
) -> None:
    assert store.ask("PUT", "/plain").status_code == 200
    house.write(*(request(n) for n in range(20)))
    given: dict[str, Any] = {
        "name": "store", "url": store.url, "bucket": "plain", "access_key": store.ACCESS, **SMALL,
    }  # fmt: skip
    house.start(S3Export(token="wrong", **given))
    until(lambda: house.standing("store").failures >= 2, PATIENCE_S)
    assert "403" in house.standing("store").error
    house.stop()
    house.start(S3Export(token=store.SECRET, **given))
    house.caught_up("store")
    before = exported(store, "plain")
    progress = Progress(house.data_dir)
    progress.reset("store", 0)
    progress.close()
    house.caught_up("store")
    assert exported(store, "plain") == before
    assert house.standing("store").failures == 0


def test_signatures_are_those_of_another_implementation() -> None:
    botocore = pytest.importorskip("botocore.auth", reason="botocore is not there: NOT COMPARED")
    from botocore.awsrequest import AWSRequest
    from botocore.credentials import Credentials

    chance = random.Random(5)
    letters = string.ascii_letters + string.digits + " /+=&%~'()*!ü€-_."
    for _ in range(200):
        key = "".join(chance.choice(letters) for _ in range(chance.randint(1, 40))).strip("/ ")
        key = re.sub("/+", "/", key).replace("/./", "/") or "k"
        secret = "".join(chance.choice(letters) for _ in range(40))
        body = chance.randbytes(chance.randint(0, 64))
        url = f"http://store.example:{chance.choice((9000, 443))}/b/{quote(key, safe='-_.~/')}"
        more = {"content-type": "text/plain", "if-none-match": "*", "x-amz-meta-a": "b   c"}
        mine = Signer("AKID", secret, "eu-central-1").headers("PUT", url, body, more, 1.79e9)
        theirs = AWSRequest("PUT", url, data=body, headers={**more, "host": mine["host"]})
        theirs.headers["x-amz-content-sha256"] = mine["x-amz-content-sha256"]
        theirs.headers["X-Amz-Date"] = mine["x-amz-date"]
        theirs.context["timestamp"] = mine["x-amz-date"]
        auth = botocore.S3SigV4Auth(Credentials("AKID", secret), "s3", "eu-central-1")
        request = auth.canonical_request(theirs)
        signature = auth.signature(auth.string_to_sign(theirs, request), theirs)
        assert mine["authorization"].endswith(f"Signature={signature}"), (key, request)


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
