"""A bucket of an S3-compatible store: put, get, look and delete, with Object Lock. Blocking.

For threads that may wait. Each call is one request; what may be tried again raises ``Unreachable``.
"""

from __future__ import annotations

import base64
import hashlib
import http.client
import re
import ssl
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Protocol
from urllib.parse import urlsplit

import msgspec

from bifrost.errors import BifrostError
from bifrost.sigv4 import Credentials, escaped, query_text, signed_headers

MOST_BYTES = 256 << 20
_CODE = re.compile(rb"<Code>([A-Za-z0-9]{1,64})</Code>")
_PASSING = frozenset({408, 409, 429, 500, 502, 503, 504})


class S3Error(BifrostError):
    """The store refuses: ``status`` and its own ``code``."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class Unreachable(S3Error):
    """The store cannot be asked, or is not able to answer at the moment."""


class Found(msgspec.Struct, frozen=True):
    """An object: its version where the bucket keeps versions, its size, the bytes if asked for."""

    version: str
    size: int
    data: bytes = b""


class Keys(Protocol):
    """Where credentials that end come from."""

    def credentials(self) -> Credentials:
        """Those that hold now; raises BifrostError."""


class Bucket(msgspec.Struct, frozen=True, kw_only=True):
    """Where a bucket is and who asks. It can be sent to another process.

    ``endpoint``: http(s) address of the store, None for AWS.
    """

    name: str
    region: str = "us-east-1"
    endpoint: str | None = None
    credentials: Credentials | Keys
    ca_file: str | None = None
    timeout_s: float = 60.0

    def __repr__(self) -> str:
        return f"Bucket(name={self.name!r}, endpoint={self.endpoint!r}, …)"

    def put(
        self, key: str, data: bytes, *, lock: str = "none", until: datetime | None = None
    ) -> str | None:
        """Stores a new object; returns its version (may be empty), None if there is one already.

        ``until``: to when nobody may delete it, with ``lock`` compliance, or governance: but those
        with a special right.
        """
        headers = {
            "content-type": "application/octet-stream",
            "if-none-match": "*",
            "content-md5": base64.b64encode(
                hashlib.md5(data, usedforsecurity=False).digest()
            ).decode(),
        }
        if lock != "none" and until is not None:
            headers["x-amz-object-lock-mode"] = lock.upper()
            whole = until.astimezone(UTC).replace(microsecond=0)
            headers["x-amz-object-lock-retain-until-date"] = whole.strftime("%Y-%m-%dT%H:%M:%SZ")
        status, answered, _ = self._ask("PUT", key, headers=headers, body=data, taken=(200, 412))
        return None if status == 412 else answered.get("x-amz-version-id", "")

    def get(self, key: str, version: str = "") -> Found | None:
        """An object with its bytes; None if there is none."""
        return self._look("GET", key, version)

    def head(self, key: str, version: str = "") -> Found | None:
        """An object without its bytes; None if there is none."""
        return self._look("HEAD", key, version)

    def delete(self, key: str, version: str = "") -> bool:
        """Removes an object, or that version of it; False if that is forbidden (it is locked)."""
        query = (("versionId", version),) if version else ()
        status, _, _ = self._ask("DELETE", key, query=query, taken=(200, 204, 403, 404))
        return status != 403

    def _look(self, method: str, key: str, version: str) -> Found | None:
        query = (("versionId", version),) if version else ()
        status, answered, data = self._ask(method, key, query=query, taken=(200, 404))
        if status == 404:
            return None
        size = int(answered.get("content-length") or len(data))
        return Found(answered.get("x-amz-version-id", ""), size, data)

    def _ask(
        self,
        method: str,
        key: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        headers: Mapping[str, str] | None = None,
        body: bytes = b"",
        taken: Sequence[int],
    ) -> tuple[int, dict[str, str], bytes]:
        host, secure, base = self._address()
        path = f"{base}/{escaped(key)}"
        signed = signed_headers(
            self._asker(), method=method, host=host, path=path, query=query, headers=headers,
            body_sha256=hashlib.sha256(body).hexdigest(), region=self.region, service="s3",
        )  # fmt: skip
        connection = self._connection(host, secure)
        try:
            target = f"{path}?{query_text(query)}" if query else path
            connection.request(method, target, body=body or None, headers=signed)
            answer = connection.getresponse()
            data = answer.read(MOST_BYTES + 1)
        except (OSError, http.client.HTTPException) as error:
            raise Unreachable(f"{self._where} cannot be reached: {error or repr(error)}") from error
        finally:
            connection.close()
        if len(data) > MOST_BYTES:
            raise S3Error(f"{self._where} answers with more than {MOST_BYTES} bytes.")
        self._judge(method, key, answer.status, data, taken)
        return answer.status, {k.lower(): v for k, v in answer.getheaders()}, data

    def _judge(self, method: str, key: str, status: int, data: bytes, taken: Sequence[int]) -> None:
        found = _CODE.search(data[:4096])
        code = found[1].decode() if found else ""
        if status in taken and code not in ("NoSuchBucket", "SignatureDoesNotMatch"):
            return
        kind = Unreachable if status in _PASSING else S3Error
        raise kind(f"{self._where} answers {method} {key} with {status} {code}.", status, code)

    def _asker(self) -> Credentials:
        if isinstance(self.credentials, Credentials):
            return self.credentials
        try:
            return self.credentials.credentials()
        except BifrostError as error:
            raise Unreachable(f"{self._where} cannot be asked. {error}") from error

    @property
    def _where(self) -> str:
        return f"The bucket {self.name} of {self.endpoint or 'AWS'}"

    def _address(self) -> tuple[str, bool, str]:
        """Host with port, whether by TLS, and the path in front of keys."""
        if self.endpoint is None:
            if "." in self.name:  # a wildcard certificate covers no dot
                return f"s3.{self.region}.amazonaws.com", True, f"/{escaped(self.name)}"
            return f"{self.name}.s3.{self.region}.amazonaws.com", True, ""
        parts = urlsplit(self.endpoint)
        return (
            parts.netloc,
            parts.scheme == "https",
            f"{parts.path.rstrip('/')}/{escaped(self.name)}",
        )

    def _connection(self, host: str, secure: bool) -> http.client.HTTPConnection:
        if not secure:
            return http.client.HTTPConnection(host, timeout=self.timeout_s)
        context = ssl.create_default_context(cafile=self.ca_file)
        return http.client.HTTPSConnection(host, timeout=self.timeout_s, context=context)
