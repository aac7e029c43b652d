"""The block ``audit_logs`` of the configuration file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from bifrost.audit.notary import Signed
from bifrost.config.evidence import AuditLogs, Retention
from bifrost.config.load import public
from bifrost.config.values import age_ns
from tests.test_config import problems, read
from tests.test_steward import House

ARTICLE: dict[str, Any] = {
    "enabled": True,
    "retention": {"duration": "365d", "archive_after": "90d"},
    "immutability": {"enabled": True, "verification_method": "cryptographic_hash"},
    "content": "none",
}
DAY = 86_400_000_000_000


@pytest.mark.parametrize(
    "document", [{"audit_logs": ARTICLE}, {"enterprise": {"audit_logs": ARTICLE}}]
)
def test_the_block_is_accepted_in_both_places(document: object) -> None:
    evidence = read(document).evidence
    assert evidence == AuditLogs(retention=Retention(duration="365d", archive_after="90d"))
    assert evidence.signs
    assert evidence.retention.duration_ns == 365 * DAY
    assert evidence.retention.archive_after_ns == 90 * DAY


def test_without_a_block_everything_is_signed_and_kept() -> None:
    evidence = read({}).evidence
    assert evidence == read({"audit_logs": {}}).evidence == AuditLogs()
    assert evidence.signs and evidence.retention.duration_ns is None
    assert not read({"audit_logs": {"enabled": False}}).evidence.signs
    assert not read({"audit_logs": {"immutability": {"enabled": False}}}).evidence.signs


def test_exports_are_waited_for_as_long_as_is_said() -> None:
    for said, waits in (("0s", 0), ("2d", 2 * DAY), (None, 0), ("forever", None)):
        found = read(kept(duration="1Y", wait_for_exports=said)).evidence.retention
        assert found.waits_ns == waits
    assert read({}).evidence.retention.waits_ns == 30 * DAY


def test_ages_are_never_shorter_than_their_names() -> None:
    ages = ("0d", "90s", "5m", "2h", "2190d", "1w", "1M", "6Y")
    spans = (0, 90, 300, 7200, 2190 * 86400, 604800, 31 * 86400, 6 * 366 * 86400)
    assert [age_ns(text) for text in ages] == [one * 10**9 for one in spans]


def kept(**fields: object) -> dict[str, Any]:
    return {"audit_logs": {"retention": fields}}


def stored(**archive: object) -> dict[str, Any]:
    return kept(archive_after="90d", archive=archive)


@pytest.mark.parametrize(
    ("document", "said"),
    [
        (
            {"audit_logs": {}, "enterprise": {"audit_logs": {}}},
            "enterprise.audit_logs: given twice; keep this one or audit_logs at the top level",
        ),
        (
            kept(duration="a year"),
            "audit_logs.retention.duration: expected a number up to 99999 and one of s m h d w M Y"
            " (M is 31 days, Y 366), at most 100Y, such as '365d', got 'a year'",
        ),
        (
            kept(duration="1Y", wait_for_exports="always"),
            "audit_logs.retention.wait_for_exports: expected a number up to 99999 and one of s m h"
            " d w M Y (M is 31 days, Y 366), at most 100Y, such as '365d', or 'forever', got"
            " 'always'",
        ),
        (
            kept(duration=365),
            "audit_logs.retention.duration: expected text, got 365; put it in quotes",
        ),
        (
            kept(duration="0d"),
            "audit_logs.retention.duration: would remove everything at once; expected at least"
            " '1s'",
        ),
        (
            kept(duration="90d", archive_after="90d"),
            "audit_logs.retention.archive_after: 90d is not before the entries are removed, after"
            " 90d",
        ),
        (
            kept(duration="90d", archive={"directory": "/archive"}),
            "audit_logs.retention.archive: nothing is archived without archive_after; give both",
        ),
        (
            stored(directory="/archive", s3={"bucket": "abc"}),
            "audit_logs.retention.archive: expected one of directory and s3, got both; keep one of"
            " them",
        ),
        (
            stored(s3={"bucket": "A B"}),
            "audit_logs.retention.archive.s3.bucket: expected 3 to 63 small letters, digits, dots"
            " and hyphens",
        ),
        (
            stored(s3={"bucket": "abc", "endpoint": "minio:9000"}),
            "audit_logs.retention.archive.s3.endpoint: expected an http or https address without"
            " user, password, query or fragment",
        ),
        (
            stored(s3={"bucket": "abc", "access_key_id": "x"}),
            "audit_logs.retention.archive.s3: expected access_key_id and secret_access_key"
            " together",
        ),
        (
            stored(s3={"bucket": "abc", "object_lock": "compliance"}),
            "audit_logs.retention.archive.s3.object_lock: needs retention.duration: until then"
            " objects are locked",
        ),
        (
            {"enterprise": {"audit_logs": {"immutability": {"verification_method": "hmac"}}}},
            "enterprise.audit_logs.immutability.verification_method: expected"
            " 'cryptographic_hash', got 'hmac'",
        ),
        (
            {"audit_logs": {**ARTICLE, "immutability": {"enabled": False}}},
            "audit_logs.retention: needs immutability: what is archived or removed could not be"
            " told from what is missing without a signature",
        ),
        (
            {"audit_logs": {"retentions": {}}},
            "audit_logs.retentions: unknown key; did you mean 'retention'? (valid: enabled,"
            " retention, immutability, content, mode, exports)",
        ),
    ],
)
def test_what_is_wrong_is_said(document: object, said: str) -> None:
    assert problems(document) == [said]


def test_what_is_off_is_recorded_all_the_same_and_not_signed(tmp_path: Path) -> None:
    house = House(tmp_path)
    try:
        off = read({"audit_logs": {"enabled": False}}).evidence
        for evidence, signed in ((off, 0), (AuditLogs(), 2)):
            house.happened()
            steward = house.steward(evidence=evidence)
            steward.drain()
            steward.close()
            found = Signed.load(tmp_path / "audit")
            assert (found.checkpoint.size if found else 0) == signed
        assert len(house.logged()) == 2
    finally:
        house.close()


def test_secrets_of_an_archive_are_not_shown() -> None:
    s3 = {"bucket": "abc", "access_key_id": "AKID", "secret_access_key": "very-secret"}
    settings = read(stored(s3=s3))
    assert "very-secret" not in repr(settings) + str(public(settings))
