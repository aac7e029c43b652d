"""AWS Signature Version 4, for S3-compatible stores."""

from __future__ import annotations

import hashlib
import hmac
from datetime import UTC, datetime
from urllib.parse import quote, urlsplit

import msgspec

ALGORITHM = "AWS4-HMAC-SHA256"
SAFE = "-_.~"


class Signer(msgspec.Struct, frozen=True):
    """A credential for one region and service. ``repr`` does not show the secret."""

    access_key: str
    secret: str
    region: str
    service: str = "s3"

    def __repr__(self) -> str:
        return f"Signer(access_key={self.access_key!r}, …)"

    def headers(
        self, method: str, url: str, body: bytes, more: dict[str, str], at_s: float
    ) -> dict[str, str]:
        """``more`` and what signs them; ``at_s`` is now in Unix seconds.

        Names are in lower case. ``url``'s path is encoded already, its query also sorted.
        """
        parts = urlsplit(url)
        moment = datetime.fromtimestamp(at_s, UTC).strftime("%Y%m%dT%H%M%SZ")
        digest = hashlib.sha256(body).hexdigest()
        headers = {
            **more, "host": parts.netloc, "x-amz-date": moment, "x-amz-content-sha256": digest,
        }  # fmt: skip
        names = ";".join(sorted(headers))
        lines = "".join(f"{name}:{' '.join(headers[name].split())}\n" for name in sorted(headers))
        request = f"{method}\n{parts.path or '/'}\n{parts.query}\n{lines}\n{names}\n{digest}"
        scope = f"{moment[:8]}/{self.region}/{self.service}/aws4_request"
        hashed = hashlib.sha256(request.encode()).hexdigest()
        text = f"{ALGORITHM}\n{moment}\n{scope}\n{hashed}"
        signature = hmac.new(self._key(moment[:8]), text.encode(), hashlib.sha256).hexdigest()
        headers["authorization"] = (
            f"{ALGORITHM} Credential={self.access_key}/{scope},"
            f" SignedHeaders={names}, Signature={signature}"
        )
        return headers

    def _key(self, day: str) -> bytes:
        key = f"AWS4{self.secret}".encode()
        for part in (day, self.region, self.service, "aws4_request"):
            key = hmac.new(key, part.encode(), hashlib.sha256).digest()
        return key


def encoded(path: str) -> str:
    """An object's name as it stands in an address."""
    return quote(path, safe=f"{SAFE}/")
