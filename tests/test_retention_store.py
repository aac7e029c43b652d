"""Retention: a real S3-compatible store as the archive."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bifrost import chain
from bifrost.audit import depots, parts
from bifrost.audit.depots import DepotError
from bifrost.audit.log import Reader
from bifrost.audit.parts import Parts
from bifrost.audit.segments import segments
from bifrost.config.evidence import Archive, ArchiveBucket
from tests.commands import until
from tests.evidence import examined
from tests.keeping import Keeping, entries, expire, judged
from tests.seaweed import CREDENTIALS, Store, running


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Store]:
    with running(tmp_path_factory.mktemp("seaweed")) as found:
        yield found


def bucket_of(store: Store, name: str, **more: Any) -> Archive:
    given = ArchiveBucket(
        bucket=name, prefix="audit", endpoint=store.endpoint,
        access_key_id=CREDENTIALS.access_key_id,
        secret_access_key=CREDENTIALS.secret_access_key, **more,
    )  # fmt: skip
    return Archive(s3=given)


def test_a_bucket_with_object_lock_is_an_archive(
    store: Store, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bucket = store.create("worm", locked=True)
    archive = bucket_of(store, "worm", object_lock="compliance")
    keeping = Keeping(tmp_path, archive_after="30d", duration="365d", archive=archive)
    keeping.fill(20)
    before, folder = entries(keeping.folder), keeping.folder
    keeping.age(-31 * 86_400)
    keeping.settle()
    assert not keeping.trouble and segments(folder)[0] > 0
    manifest = Parts(folder).manifest(0)
    assert manifest is not None and manifest.version and manifest.until > time.time_ns()
    assert not bucket.delete(f"audit/{manifest.name}", manifest.version)
    parts._unpacked.clear()
    assert entries(folder)[: len(before)] == before
    assert judged(folder).intact
    assert (
        "secret"
        not in (folder / "archived").joinpath(Parts(folder).path(0, manifest.end).name).read_text()
    )
    expire(folder, manifest.end)
    keeping.settle()
    keeping.settle()
    assert Parts(folder).minimum() == manifest.end  # removed here, locked there
    assert bucket.get(f"audit/{manifest.name}", manifest.version) is not None
    assert Parts(folder).archived()[0] == (0, manifest.end)
    assert keeping.keeper._patience > 0 and judged(folder).intact
    # Another machine, or `bifrost audit`: credentials come from the environment.
    monkeypatch.setattr(depots, "_known", {})
    monkeypatch.setattr(chain, "_held", {})  # other tests of this process have some
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")  # the machine's own are not ours
    parts._unpacked.clear()
    with pytest.raises(DepotError, match="AWS_ACCESS_KEY_ID"):
        Reader(tmp_path).read(manifest.end, 1)
    assert examined(folder).unread
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", CREDENTIALS.access_key_id)
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", CREDENTIALS.secret_access_key)
    assert examined(folder).unread == 0 and examined(folder).intact
    keeping.close()


def test_what_is_not_locked_is_removed_from_the_bucket(store: Store, tmp_path: Path) -> None:
    bucket = store.create("plain-archive")
    archive = bucket_of(store, "plain-archive")
    keeping = Keeping(tmp_path, archive_after="30d", duration="365d", archive=archive)
    keeping.fill(20)
    keeping.age(-31 * 86_400)
    keeping.settle()
    manifest = Parts(keeping.folder).manifest(0)
    assert manifest is not None and bucket.head(f"audit/{manifest.name}") is not None
    expire(keeping.folder, manifest.end)
    until(lambda: (keeping.settle(), not keeping.trouble)[1])
    keeping.settle()
    assert bucket.head(f"audit/{manifest.name}") is None
    assert bucket.head(f"audit/{manifest.note_name}") is None
    assert Parts(keeping.folder).archived()[0][0] == manifest.end
    assert judged(keeping.folder).intact
    keeping.close()
