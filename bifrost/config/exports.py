"""What the configuration file says of exports: a struct per kind of receiver, its ``type``."""

from __future__ import annotations

import re
import typing
from typing import Annotated, Literal
from urllib.parse import urlsplit

from msgspec import Meta

from bifrost.config.fields import FilePath, Name, Seconds, Secret, Spec, Text
from bifrost.config.findings import Findings
from bifrost.config.signing import check_signing
from bifrost.config.values import VISIBLE, is_address, is_local

Format = Literal["native", "ocsf", "ecs"]
FORMAT = "How entries are written: native (byte for byte), ocsf (1.8) or ecs."
Url = Annotated[Text, Meta(description="http(s) address of the receiver.")]
Value = Annotated[str, Meta(max_length=256)]
_FILE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")


class Export(Spec, frozen=True, kw_only=True, tag_field="type"):
    """What all receivers of the audit log have in common. ``repr`` shows the name alone."""

    name: Annotated[Name, Meta(description="Unique; how far it has got is kept under it.")]
    format: Annotated[Format, Meta(description=FORMAT)] = "native"
    events: Annotated[
        tuple[Name, ...], Meta(description="Types of entries it gets; none means all.")
    ] = ()
    start: Annotated[
        Literal["oldest", "newest"],
        Meta(description="Where a new one begins: at the log's oldest entry, or with what comes."),
    ] = "oldest"
    max_entries: Annotated[
        Annotated[int, Meta(ge=1, le=100_000)] | None,
        Meta(description="Most entries at once; null: by type."),
    ] = None
    max_bytes: Annotated[
        Annotated[int, Meta(ge=1_024, le=2**28)] | None,
        Meta(description="Most bytes at once, not compressed; null: by type."),
    ] = None
    interval_s: Annotated[
        Seconds | None, Meta(description="Seconds that entries are gathered; null: by type.")
    ] = None
    timeout_s: Annotated[
        float, Meta(gt=0, le=600, description="Seconds the receiver has to answer.")
    ] = 30.0

    def __repr__(self) -> str:
        return f"{type(self).__name__}(name={self.name!r}, …)"


class HttpExport(Export, frozen=True, kw_only=True):
    """A receiver that is reached by HTTP."""

    url: Url
    proxy: Annotated[
        Secret | None, Meta(description="http(s) proxy to go through; may hold user:password@.")
    ] = None
    ca_file: Annotated[
        FilePath | None,
        Meta(description="PEM file of authorities trusted instead of the system's."),
    ] = None


class ElasticExport(HttpExport, frozen=True, kw_only=True, tag="elastic"):
    """Elasticsearch or OpenSearch, by ``_bulk``."""

    index: Annotated[Name, Meta(description="Index, alias or data stream.")]
    token: Annotated[
        Secret | None, Meta(description="API key, as base64 of id:key (Elasticsearch).")
    ] = None
    username: Annotated[Name | None, Meta(description="User, instead of a token.")] = None
    password: Annotated[Secret | None, Meta(description="The user's password.")] = None
    format: Annotated[Format, Meta(description=FORMAT)] = "ecs"


class SplunkExport(HttpExport, frozen=True, kw_only=True, tag="splunk"):
    """Splunk's HTTP Event Collector."""

    token: Annotated[Secret, Meta(description="Token of the collector.")]
    ack: Annotated[
        bool, Meta(description="Wait until events are indexed; the token must allow it.")
    ] = False
    index: Annotated[Name | None, Meta(description="Index; null leaves it to the token.")] = None
    source: Annotated[Name, Meta(description="What Splunk shows as source.")] = "bifrost"
    sourcetype: Annotated[Name, Meta(description="What Splunk shows as source type.")] = (
        "bifrost:audit"
    )


class DatadogExport(HttpExport, frozen=True, kw_only=True, tag="datadog"):
    """Datadog's intake of logs."""

    token: Annotated[Secret, Meta(description="API key.")]
    url: Url = "https://http-intake.logs.datadoghq.com"
    service: Annotated[Name, Meta(description="Service of the logs.")] = "bifrost"
    tags: Annotated[
        tuple[Name, ...], Meta(description="Tags of every log, such as env:production.")
    ] = ()


class S3Export(HttpExport, frozen=True, kw_only=True, tag="s3"):
    """Objects of JSON lines in an S3-compatible store."""

    bucket: Annotated[Name, Meta(description="Bucket; it must exist.")]
    access_key: Annotated[
        Name | None, Meta(description="Access key id; null: AWS's usual chain.")
    ] = None
    token: Annotated[Secret | None, Meta(description="Secret access key.")] = None
    region: Annotated[Name, Meta(description="Region of the signature.")] = "us-east-1"
    prefix: Annotated[Value, Meta(description="Begin of every object's name.")] = "audit/"
    encryption: Annotated[
        Literal["none", "AES256", "aws:kms"], Meta(description="Encryption asked of the store.")
    ] = "none"
    lock: Annotated[
        Literal["none", "governance", "compliance"],
        Meta(description="Object Lock of every object; the bucket must allow it."),
    ] = "none"
    lock_days: Annotated[int, Meta(ge=1, le=36_500, description="Days of the lock.")] = 365


class WebhookExport(HttpExport, frozen=True, kw_only=True, tag="webhook"):
    """A receiver of Standard Webhooks."""

    url: Annotated[Secret, Meta(description="http(s) address; not shown again.")]
    secret: Annotated[
        Secret, Meta(description="whsec_ and 24 to 64 bytes in base64; best as env.NAME.")
    ]
    old_secrets: Annotated[
        tuple[Secret, ...],
        Meta(description="Secrets that sign too, while the receiver changes to the new one."),
    ] = ()


class SyslogExport(Export, frozen=True, kw_only=True, tag="syslog"):
    """Syslog, RFC 5424, over TCP or TLS with octet counting."""

    url: Annotated[Text, Meta(description="tcp://host:port or tls://host:port.")]
    ca_file: Annotated[
        FilePath | None,
        Meta(description="PEM file of authorities trusted instead of the system's."),
    ] = None
    facility: Annotated[
        int, Meta(ge=0, le=23, description="Facility; 13 is log audit, 16 to 23 are local.")
    ] = 13
    hostname: Annotated[Name | None, Meta(description="Host it says it is; null: ours.")] = None
    app_name: Annotated[
        str, Meta(min_length=1, max_length=48, description="Name it says it has.")
    ] = "bifrost"


class OtlpExport(HttpExport, frozen=True, kw_only=True, tag="otlp"):
    """Logs by OTLP over HTTP; without a path the address gets /v1/logs."""

    encoding: Annotated[Literal["protobuf", "json"], Meta(description="How it is written.")] = (
        "protobuf"
    )
    headers: Annotated[
        dict[str, Secret], Meta(description="Headers, such as {'authorization': 'env.TOKEN'}.")
    ] = {}
    service: Annotated[Name, Meta(description="service.name of the resource.")] = "bifrost"


class FileExport(Export, frozen=True, kw_only=True, tag="file"):
    """A file of JSON lines."""

    path: Annotated[FilePath, Meta(description="The file; it is appended to.")]


Sink = (
    ElasticExport
    | SplunkExport
    | DatadogExport
    | S3Export
    | WebhookExport
    | SyslogExport
    | OtlpExport
    | FileExport
)

KINDS: dict[str, type[Export]] = {
    str(one.__struct_config__.tag): one for one in typing.get_args(Sink)
}


def check_exports(place: str, sinks: tuple[Sink, ...], findings: Findings) -> None:
    """Report every rule the exports break; empty texts are places reported already."""
    seen: dict[str, str] = {}
    paths: dict[str, str] = {}
    for number, sink in enumerate(sinks):
        here = f"{place}[{number}]"
        if sink.name and not _FILE_NAME.fullmatch(sink.name):
            findings.add(f"{here}.name", "expected a name of letters, digits and . _ - only")
        elif sink.name and seen.setdefault(sink.name, here) != here:
            shown = findings.shown(f"{here}.name", sink.name)
            findings.add(f"{here}.name", f"{shown} is already the name of {seen[sink.name]}")
        if isinstance(sink, HttpExport):
            _http(here, sink, findings)
        match sink:
            case ElasticExport():
                _elastic(here, sink, findings)
            case S3Export():
                _s3(here, sink, findings)
            case WebhookExport():
                check_signing(here, sink.secret, sink.old_secrets, findings)
            case SyslogExport():
                _syslog(here, sink, findings)
            case FileExport() if sink.path and paths.setdefault(sink.path, here) != here:
                findings.add(f"{here}.path", f"the same file as {paths[sink.path]}")


def _http(here: str, sink: HttpExport, findings: Findings) -> None:
    if sink.url and not is_address(sink.url, query=isinstance(sink, WebhookExport)):
        findings.add(
            f"{here}.url",
            "expected an http or https address without user, password, query or fragment",
        )
    elif sink.url.lower().startswith("http:"):
        if not is_local(sink.url):
            findings.warn(f"{here}.url", "http lets others read what is exported")
    if sink.proxy and not is_address(sink.proxy, user=True):
        findings.add(
            f"{here}.proxy", "expected an http or https address, such as 'http://host:3128'"
        )
    for field in ("token", "access_key"):
        value = getattr(sink, field, None)
        if value and not VISIBLE.fullmatch(value):
            findings.add(
                f"{here}.{field}",
                "holds a space, a control character or a character beyond ASCII, which no header"
                " can carry",
            )


def _s3(here: str, sink: S3Export, findings: Findings) -> None:
    if sink.bucket and not _BUCKET.fullmatch(sink.bucket):
        findings.add(f"{here}.bucket", "expected the name of a bucket")
    if (sink.access_key is None) != (sink.token is None):
        findings.add(here, "expected access_key and token, or neither")


def _elastic(here: str, sink: ElasticExport, findings: Findings) -> None:
    if sink.token and sink.username:
        findings.add(f"{here}.username", "given beside a token; keep one of them")
    if (sink.username is None) != (sink.password is None):
        findings.add(here, "expected username and password, or neither")
    if sink.index and (sink.index != sink.index.lower() or set(sink.index) & set(' "*\\<|,>/?#:')):
        findings.add(f"{here}.index", "expected the name of an index in lower case")


def _syslog(here: str, sink: SyslogExport, findings: Findings) -> None:
    try:
        parts = urlsplit(sink.url)
        right = parts.scheme in ("tcp", "tls") and parts.hostname and parts.port and not parts.path
    except ValueError:
        right = False
    if sink.url and not right:
        findings.add(f"{here}.url", "expected 'tcp://host:port' or 'tls://host:port'")
    elif sink.url.startswith("tcp:") and not is_local(sink.url):
        findings.warn(f"{here}.url", "tcp lets others read what is exported; use tls")
    if sink.ca_file and sink.url.startswith("tcp:"):
        findings.add(f"{here}.ca_file", "tcp knows no certificates; use 'tls://host:port'")
    for field, value in {"hostname": sink.hostname, "app_name": sink.app_name}.items():
        if value and not VISIBLE.fullmatch(value):
            findings.add(f"{here}.{field}", "expected visible ASCII characters without a space")
