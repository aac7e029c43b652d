"""What the configuration file says of the audit log: how it is signed, and how long it is kept."""

from __future__ import annotations

import re
from typing import Annotated, Literal

from msgspec import Meta

from bifrost.config.exports import Sink, check_exports
from bifrost.config.fields import FilePath, Name, Secret, Spec, Text, or_reference
from bifrost.config.findings import Findings
from bifrost.config.values import AGE, age_ns, is_address, is_local

_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
FOREVER = "forever"
Age = Annotated[Text, Meta(extra_json_schema=or_reference(AGE.pattern))]
Patience = Annotated[Text, Meta(extra_json_schema=or_reference(f"{AGE.pattern}|{FOREVER}"))]


class ArchiveBucket(Spec, frozen=True, kw_only=True):
    """A bucket of an S3-compatible store. ``repr`` does not show the credentials."""

    bucket: Annotated[Name, Meta(description="Its name.")]
    prefix: Annotated[str, Meta(description="What object names begin with.")] = ""
    region: Annotated[Name, Meta(description="Its region.")] = "us-east-1"
    endpoint: Annotated[
        Text | None, Meta(description="http(s) address of the store; null is AWS.")
    ] = None
    access_key_id: Annotated[
        Text | None, Meta(description="Credential; null: AWS's usual chain.")
    ] = None
    secret_access_key: Annotated[
        Secret | None, Meta(description="Credential; null: AWS's usual chain.")
    ] = None
    session_token: Annotated[Secret | None, Meta(description="Of a temporary credential.")] = None
    object_lock: Annotated[
        Literal["none", "governance", "compliance"],
        Meta(description="Lock each object until duration has passed; the bucket must allow it."),
    ] = "none"
    ca_file: Annotated[
        FilePath | None,
        Meta(description="PEM file of authorities trusted instead of the system's."),
    ] = None

    def __repr__(self) -> str:
        return f"ArchiveBucket(bucket={self.bucket!r}, …)"


class Archive(Spec, frozen=True, kw_only=True):
    """Where sealed segments go."""

    directory: Annotated[
        FilePath | None, Meta(description="Folder of the archive; null: archive beside the log.")
    ] = None
    s3: Annotated[
        ArchiveBucket | None, Meta(description="Bucket of the archive, instead of a folder.")
    ] = None


class Retention(Spec, frozen=True, kw_only=True):
    """How long entries are kept, and where. A number and one of s m h d w M Y."""

    duration: Annotated[
        Age | None, Meta(description="Age from which entries are removed; null keeps them all.")
    ] = None
    archive_after: Annotated[
        Age | None, Meta(description="Age from which segments are archived; null archives none.")
    ] = None
    archive: Annotated[Archive, Meta(description="Where the archive is.")] = Archive()
    wait_for_exports: Annotated[
        Patience | None,
        Meta(
            description="Age beyond duration up to which unsent entries stay; forever: until every"
            " export has them; null: none stays."
        ),
    ] = "30d"

    @property
    def waits_ns(self) -> int | None:
        """``wait_for_exports`` in ns, None for ever."""
        if self.wait_for_exports == FOREVER:
            return None
        return 0 if self.wait_for_exports is None else age_ns(self.wait_for_exports)

    @property
    def duration_ns(self) -> int | None:
        """``duration`` in ns."""
        return None if self.duration is None else age_ns(self.duration)

    @property
    def archive_after_ns(self) -> int | None:
        """``archive_after`` in ns."""
        return None if self.archive_after is None else age_ns(self.archive_after)


class Immutability(Spec, frozen=True, kw_only=True):
    """Whether a change of what was recorded can be found."""

    enabled: Annotated[bool, Meta(description="Sign checkpoints of the tree over all entries.")] = (
        True
    )
    verification_method: Annotated[
        Literal["cryptographic_hash"], Meta(description="The one there is: a signed hash tree.")
    ] = "cryptographic_hash"


class AuditLogs(Spec, frozen=True, kw_only=True):
    """The audit log. It is written in any case: usage and the counters are derived from it."""

    enabled: Annotated[
        bool, Meta(description="false: neither signed, archived nor exported; all is kept.")
    ] = True
    retention: Annotated[Retention, Meta(description="How long entries are kept.")] = Retention()
    immutability: Annotated[Immutability, Meta(description="How it is signed.")] = Immutability()
    content: Annotated[
        Literal["none", "hash", "full"],
        Meta(description="What is recorded of requests and answers, unless their key says it."),
    ] = "none"
    mode: Annotated[
        Literal["standard", "strict"],
        Meta(description="strict: a request leaves only after its intent is on the disk."),
    ] = "standard"
    exports: Annotated[tuple[Sink, ...], Meta(description="Where entries are sent.")] = ()

    @property
    def sinks(self) -> tuple[Sink, ...]:
        """The exports that are served."""
        return self.exports if self.enabled else ()

    @property
    def signs(self) -> bool:
        """Whether the log is signed."""
        return self.enabled and self.immutability.enabled

    @property
    def keeps(self) -> bool:
        """Whether anything is archived or removed when its time has come."""
        kept = self.retention
        return self.signs and (kept.duration is not None or kept.archive_after is not None)


class Enterprise(Spec, frozen=True, kw_only=True):
    """May wrap what other gateways sell."""

    audit_logs: Annotated[
        AuditLogs | None, Meta(description="How the audit log is signed and kept.")
    ] = None


def check_evidence(outer: AuditLogs | None, wrapped: Enterprise, findings: Findings) -> None:
    """Report every rule the two places of the block break."""
    if outer is not None and wrapped.audit_logs is not None:
        findings.add(
            "enterprise.audit_logs", "given twice; keep this one or audit_logs at the top level"
        )
    for place, block in {
        "audit_logs": outer,
        "enterprise.audit_logs": wrapped.audit_logs,
    }.items():
        if block is not None:
            _retention(f"{place}.retention", block, findings)
            check_exports(f"{place}.exports", block.exports, findings)


def _retention(place: str, block: AuditLogs, findings: Findings) -> None:
    kept = block.retention
    ages: dict[str, int] = {}
    waits = None if kept.wait_for_exports == FOREVER else kept.wait_for_exports
    given = {"duration": kept.duration, "archive_after": kept.archive_after}
    for field, text in {**given, "wait_for_exports": waits}.items():
        try:
            if text:
                ages[field] = age_ns(text)
        except ValueError as error:
            here = f"{place}.{field}"
            other = f", or '{FOREVER}'" if field == "wait_for_exports" else ""
            findings.add(here, f"{error}{other}, got {findings.shown(here, text or '')}")
    if ages.get("duration") == 0:
        findings.add(f"{place}.duration", "would remove everything at once; expected at least '1s'")
    if len(ages.keys() & given.keys()) == 2 and ages["archive_after"] >= ages["duration"]:
        findings.add(
            f"{place}.archive_after",
            f"{kept.archive_after} is not before the entries are removed, after {kept.duration}",
        )
    if kept.archive != Archive() and kept.archive_after is None:
        findings.add(f"{place}.archive", "nothing is archived without archive_after; give both")
    _archive(f"{place}.archive", kept, findings)
    if (kept.duration or kept.archive_after) and block.enabled and not block.immutability.enabled:
        findings.add(
            place,
            "needs immutability: what is archived or removed could not be told from what is"
            " missing without a signature",
        )


def _archive(place: str, kept: Retention, findings: Findings) -> None:
    given = kept.archive.s3
    if given is None:
        return
    here = f"{place}.s3"
    if kept.archive.directory is not None:
        findings.add(place, "expected one of directory and s3, got both; keep one of them")
    if given.bucket and not _BUCKET.fullmatch(given.bucket):
        findings.add(f"{here}.bucket", "expected 3 to 63 small letters, digits, dots and hyphens")
    if given.endpoint is not None and given.endpoint and not is_address(given.endpoint):
        findings.add(
            f"{here}.endpoint",
            "expected an http or https address without user, password, query or fragment",
        )
    elif given.endpoint and given.endpoint.lower().startswith("http:"):
        if not is_local(given.endpoint):
            findings.warn(f"{here}.endpoint", "http lets others read what is archived")
    if (given.access_key_id is None) != (given.secret_access_key is None):
        findings.add(here, "expected access_key_id and secret_access_key together")
    if given.object_lock != "none" and kept.duration is None:
        findings.add(
            f"{here}.object_lock", "needs retention.duration: until then objects are locked"
        )
