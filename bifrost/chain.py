"""AWS's credentials for buckets: the chain that providers use, for threads that may wait.

One credential per description and process, renewed when it is due; while a renewal fails, the old
one is used for as long as it holds.
"""

from __future__ import annotations

import asyncio
import http.client
import ssl
import threading
import time
from urllib.parse import urlsplit

import msgspec

from bifrost.errors import BifrostError, UpstreamError
from bifrost.providers import aws
from bifrost.providers.asking import CredentialError, Errand, Reply
from bifrost.providers.tokens import RENEWAL_S, SPARE_S, Lease
from bifrost.sigv4 import Credentials

NEAR_S, FAR_S = 3.0, 15.0
LONGEST_REPLY = 1 << 20  # bytes
_held: dict[Chain, Lease[Credentials]] = {}
_lock = threading.Lock()


class Chain(msgspec.Struct, frozen=True, kw_only=True):
    """The usual chain (``providers/aws.py``) for a bucket. It can be sent to another process.

    ``region``: of AWS's STS; ``ca_file``: authorities that are trusted instead of the system's.
    """

    region: str
    ca_file: str | None = None

    def credentials(self) -> Credentials:
        """Those that hold now. Raises BifrostError, saying where none were found."""
        with _lock:  # others wait for the one renewal
            now = time.time()
            held = _held.get(self)
            if held is not None and now < held.renew:
                return held.value
            try:
                lease = _held[self] = _apart(aws.source(self._ask, aws.Wanted(region=self.region)))
            except BifrostError:
                if held is None or now >= held.ends - SPARE_S:
                    raise
                return held.value
            return lease.value

    async def _ask(self, errand: Errand) -> Reply:
        return await asyncio.to_thread(self._reply, errand)

    def _reply(self, errand: Errand) -> Reply:
        parts = urlsplit(errand.url)
        wait = NEAR_S if errand.near else FAR_S
        if parts.scheme == "https":
            context = ssl.create_default_context(cafile=self.ca_file)
            connection: http.client.HTTPConnection = http.client.HTTPSConnection(
                parts.netloc, timeout=wait, context=context
            )
        else:
            connection = http.client.HTTPConnection(parts.netloc, timeout=wait)
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        headers = {name: value for name, value in errand.headers.items() if name != "host"}
        try:
            connection.request(errand.method, target, body=errand.body or None, headers=headers)
            answer = connection.getresponse()
            told = {name.lower(): value for name, value in answer.getheaders()}
            return Reply(answer.status, told, answer.read(LONGEST_REPLY))
        except (OSError, ValueError, http.client.HTTPException) as error:
            said = f"{errand.place} cannot be reached: {error or repr(error)}"
            raise UpstreamError(said) from error
        finally:
            connection.close()


def _apart(source: aws.Source) -> Lease[Credentials]:
    """Its result, by a thread of its own: the caller's may run an event loop."""
    found: list[Lease[Credentials]] = []
    wrong: list[BifrostError] = []

    async def work() -> Lease[Credentials]:
        async with asyncio.timeout(RENEWAL_S):
            return await source()

    def run() -> None:
        try:
            found.append(asyncio.run(work()))
        except BifrostError as error:
            wrong.append(error)
        except Exception as error:
            wrong.append(CredentialError(f"The credential's source failed: {error!r}."))

    thread = threading.Thread(target=run, name="bifrost-credentials")
    thread.start()
    thread.join()
    if not found:
        raise wrong[0]
    return found[0]
