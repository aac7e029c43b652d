"""Depots: where archived parts of the log lie, a folder or a bucket. Blocking; for threads.

A depot's address is what is written down beside the log; credentials never are. They come from the
configuration, while the gateway runs, or are found as other tools of AWS find them (``chain``).
"""

from __future__ import annotations

import logging
import os
import threading
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple, Protocol
from urllib.parse import parse_qsl, quote, urlsplit

import msgspec

from bifrost.audit.tiles import sync_folder
from bifrost.chain import Chain
from bifrost.config.evidence import Archive, ArchiveBucket, AuditLogs
from bifrost.errors import StoreError
from bifrost.s3 import Bucket, S3Error
from bifrost.sigv4 import Credentials, query_text

BESIDE = "archive"  # the folder of the log that is the depot where none is configured
LEFT_S = 3600.0
log = logging.getLogger("bifrost.audit")
_known: dict[str, Bucket] = {}  # what this process was told, by address


class DepotError(StoreError):
    """The depot cannot be asked, or refuses; nothing is known about what is in it."""


class Stored(NamedTuple):
    """Something in a depot: its version where there are versions, its size, its bytes if asked."""

    version: str
    size: int
    data: bytes = b""


class Depot(Protocol):
    """Where parts are kept, each under a name that is given once. Raises DepotError."""

    @property
    def address(self) -> str: ...
    @property
    def locks(self) -> bool: ...
    def put(self, name: str, data: bytes, until_ns: int) -> None: ...
    def get(self, name: str, version: str = "") -> Stored | None: ...
    def look(self, name: str, version: str = "") -> Stored | None: ...
    def remove(self, name: str, version: str = "") -> bool: ...


class FolderDepot(msgspec.Struct, frozen=True):
    """A folder, perhaps on a mounted volume; it must be there, or lie in the log's own."""

    address: str
    root: Path
    own: bool = False
    locks: bool = False

    def put(self, name: str, data: bytes, until_ns: int) -> None:
        """Stores what is not there yet, on the disk when it returns."""
        path = self.root / name
        try:
            self._present()
            if path.exists():
                return
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            for old in path.parent.glob(".*.fresh"):  # of those that were killed at it
                if time.time() - old.stat().st_mtime > LEFT_S:
                    old.unlink(missing_ok=True)
            fresh = path.with_name(f".{path.name}.{os.getpid()}.{threading.get_ident()}.fresh")
            fd = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o400)
            with os.fdopen(fd, "wb") as file:
                file.write(data)
                file.flush()
                os.fsync(file.fileno())
            fresh.replace(path)
            for folder in (path.parent, *path.parent.parents):
                sync_folder(folder)
                if folder == self.root:
                    break
        except OSError as error:
            raise self._failed(error) from error

    def get(self, name: str, version: str = "") -> Stored | None:
        """What is there, or None."""
        try:
            self._present()
            data = (self.root / name).read_bytes()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error
        return Stored("", len(data), data)

    def look(self, name: str, version: str = "") -> Stored | None:
        """The same without its bytes."""
        try:
            self._present()
            return Stored("", (self.root / name).stat().st_size)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise self._failed(error) from error

    def remove(self, name: str, version: str = "") -> bool:
        """Removes it; a folder keeps nothing against our will."""
        try:
            self._present()
            (self.root / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._failed(error) from error
        return True

    def _present(self) -> None:
        if self.own:
            self.root.mkdir(mode=0o700, exist_ok=True)
        elif not self.root.is_dir():
            raise DepotError(
                f"The archive {self.root} is not there; make that folder, or mount its volume."
            )

    def _failed(self, error: OSError) -> DepotError:
        return DepotError(f"The archive {self.root} cannot be used: {error}.")


class BucketDepot(msgspec.Struct, frozen=True):
    """A bucket, under a prefix; with Object Lock nobody removes a part before its time."""

    address: str
    bucket: Bucket
    prefix: str = ""
    lock: str = "none"

    @property
    def locks(self) -> bool:
        """Whether what is put there cannot be removed before its time."""
        return self.lock != "none"

    def put(self, name: str, data: bytes, until_ns: int) -> None:
        """Stores what is not there yet."""
        until = datetime.fromtimestamp(-(-until_ns // 10**9), UTC) if until_ns else None
        try:
            self.bucket.put(self.prefix + name, data, lock=self.lock, until=until)
        except S3Error as error:
            raise DepotError(str(error)) from error

    def get(self, name: str, version: str = "") -> Stored | None:
        """What is there, or None."""
        try:
            found = self.bucket.get(self.prefix + name, version)
        except S3Error as error:
            raise DepotError(str(error)) from error
        return None if found is None else Stored(found.version, found.size, found.data)

    def look(self, name: str, version: str = "") -> Stored | None:
        """The same without its bytes."""
        try:
            found = self.bucket.head(self.prefix + name, version)
        except S3Error as error:
            raise DepotError(str(error)) from error
        return None if found is None else Stored(found.version, found.size)

    def remove(self, name: str, version: str = "") -> bool:
        """Removes it; False while the lock forbids it."""
        try:
            return self.bucket.delete(self.prefix + name, version)
        except S3Error as error:
            raise DepotError(str(error)) from error


def configured(archive: Archive, folder: Path) -> Depot:
    """The depot of a configuration; ``folder`` is the log's. Its credentials are known from now
    on to the whole process."""
    if archive.s3 is None:
        return _folder(archive.directory or BESIDE, folder)
    given = archive.s3
    query = {"region": given.region, "endpoint": given.endpoint or ""}
    prefix = f"{given.prefix.strip('/')}/" if given.prefix.strip("/") else ""
    pairs = query_text([(name, value) for name, value in query.items() if value])
    address = f"s3://{given.bucket}/{quote(prefix)}?{pairs}"
    bucket = Bucket(
        name=given.bucket, region=given.region, endpoint=given.endpoint, ca_file=given.ca_file,
        credentials=_credentials(given),
    )  # fmt: skip
    _known[address] = bucket
    return BucketDepot(address, bucket, prefix, given.object_lock)


def remember(evidence: AuditLogs, folder: Path) -> None:
    """Lets this process, and those it forks, read what the configured archive holds."""
    if evidence.keeps and evidence.retention.archive.s3 is not None:
        try:
            configured(evidence.retention.archive, folder)
        except DepotError as error:
            log.error("the audit log's archive cannot be used", extra={"error": str(error)})


def opened(address: str, folder: Path) -> Depot:
    """The depot of an address, to read from; BIFROST_AUDIT_ARCHIVE says where it is now."""
    address = os.environ.get("BIFROST_AUDIT_ARCHIVE") or address
    if address.startswith("s3://"):
        parts = urlsplit(address)
        query = dict(parse_qsl(parts.query))
        region, ca_file = query.get("region", "us-east-1"), os.environ.get("AWS_CA_BUNDLE")
        bucket = _known.get(address) or Bucket(
            name=parts.netloc, region=region, endpoint=query.get("endpoint"), ca_file=ca_file,
            credentials=Chain(region=region, ca_file=ca_file),
        )  # fmt: skip
        return BucketDepot(address, bucket, parts.path.lstrip("/"))
    return _folder(address, folder)


def _folder(address: str, folder: Path) -> FolderDepot:
    own = address == BESIDE
    return FolderDepot(address, folder / BESIDE if own else Path(address), own)


def _credentials(given: ArchiveBucket) -> Credentials | Chain:
    if given.access_key_id and given.secret_access_key:
        return Credentials(given.access_key_id, given.secret_access_key, given.session_token or "")
    return Chain(region=given.region)  # a ca_file is for the store, which may be another's
