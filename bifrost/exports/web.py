"""The way to receivers by HTTP: one kept connection, gzip, and what a status means.

Certificates are verified, redirects are not followed, the environment's proxies are not used.
"""

from __future__ import annotations

import gzip
import ssl

import aiohttp
import msgspec
from yarl import URL

from bifrost.config.exports import HttpExport
from bifrost.exports.answers import Answer, again, smaller
from bifrost.webhooks.delivery import AGENT, SHOWN, plain, reason, retry_after_s

MOST_ANSWER = 32 << 20  # bytes; the answer to a batch names every item
LEVEL = 5
WRONG = frozenset((400, 413, 422))  # something in the batch, or its size
KEEP_ALIVE_S = 15.0


class Reply(msgspec.Struct, frozen=True):
    """An answer: status (0: none came, ``error`` says why), body, the wait it asks for."""

    status: int = 0
    body: bytes = b""
    error: str = ""
    retry_after_s: int = 0
    etag: str = ""

    @property
    def good(self) -> bool:
        """Whether it is a 2xx."""
        return 200 <= self.status < 300

    @property
    def said(self) -> str:
        """What it says, short and printable."""
        if not self.status:
            return self.error
        text = plain(self.body[:SHOWN])
        if 300 <= self.status < 400:
            text = "redirects are not followed; configure the final address"
        return f"HTTP {self.status}: {text}" if text else f"HTTP {self.status}"

    def failed(self) -> Answer:
        """What a reply other than 2xx means, unless a receiver knows better.

        What is wrong with us and not with the batch (a token, an address) is tried again: nothing
        is given up because of a configuration.
        """
        if self.status in WRONG:
            return smaller(self.said)
        return again(self.said, self.retry_after_s)


class Web:
    """Sends requests for one sink; use it inside one event loop and close it there."""

    def __init__(self, sink: HttpExport) -> None:
        self._sink = sink
        self._session: aiohttp.ClientSession | None = None

    async def send(
        self, url: str, body: bytes, headers: dict[str, str], *, method: str = "POST"
    ) -> Reply:
        """Tries once; never raises for what the network or the receiver does."""
        try:
            if self._session is None:
                self._session = self._new_session()
            async with self._session.request(
                method,
                URL(url, encoded=True),
                data=body,
                headers={"user-agent": AGENT, **headers},
                proxy=self._sink.proxy,
                allow_redirects=False,
            ) as answer:
                said = await answer.content.read(MOST_ANSWER)
                while more := await answer.content.read(MOST_ANSWER):
                    said += more
                    if len(said) > MOST_ANSWER:
                        return Reply(error="the answer is too long")
                wait = retry_after_s(answer.headers.get("retry-after", ""))
                return Reply(answer.status, said, "", wait, answer.headers.get("etag", ""))
        except TimeoutError:
            return Reply(error=f"no answer within {self._sink.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Reply(error=reason(error))

    async def close(self) -> None:
        """Closes connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _new_session(self) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=self._sink.ca_file)
        return aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=context, limit=4, keepalive_timeout=KEEP_ALIVE_S),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._sink.timeout_s),
            trust_env=False,
        )


def packed(body: bytes) -> bytes:
    """The body as gzip; the same bytes for the same body."""
    return gzip.compress(body, LEVEL, mtime=0)
