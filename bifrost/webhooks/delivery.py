"""One attempt to deliver a message: a signed POST, and what came of it.

Certificates are verified, redirects are not followed, the environment's proxies are not used, and
of what a receiver answers at most a short piece is read.
"""

from __future__ import annotations

import email.utils
import os
import ssl
import time
from importlib.metadata import version

import aiohttp
import msgspec
from yarl import URL

from bifrost.config.settings import Webhook
from bifrost.webhooks.messages import Message
from bifrost.webhooks.signature import headers

SHOWN = 200  # bytes of an answer that are read
GONE = 410
LONGEST_WAIT_S = 86_400
AGENT = f"Bifrost/{version('bifrost-gateway')}"


class Outcome(msgspec.Struct, frozen=True):
    """What came of an attempt: the status (0: no answer), why it failed, when to come again.

    ``retry_after_s`` is what the receiver asked for, 0 if it did not.
    """

    status: int = 0
    error: str = ""
    retry_after_s: int = 0

    @property
    def delivered(self) -> bool:
        """Whether the receiver took it."""
        return 200 <= self.status < 300

    @property
    def gone(self) -> bool:
        """Whether the receiver wants nothing any more."""
        return self.status == GONE


class Sender:
    """Posts messages to one webhook; make it inside an event loop and close it there."""

    def __init__(self, hook: Webhook) -> None:
        self._hook = hook
        self._session: aiohttp.ClientSession | None = None

    async def send(self, message: Message) -> Outcome:
        """Tries once; never raises for what the network or the receiver does."""
        hook = self._hook
        try:
            if self._session is None:
                self._session = self._new_session()
            async with self._session.post(
                URL(hook.url, encoded=True),
                data=message.body,
                headers=self._headers(message),
                proxy=hook.proxy,
                allow_redirects=False,
            ) as answer:
                return await self._outcome(answer)
        except TimeoutError:
            return Outcome(error=f"no answer within {hook.timeout_s:g} s")
        except (aiohttp.ClientError, OSError, ValueError) as error:
            return Outcome(error=reason(error))

    async def close(self) -> None:
        """Closes connections."""
        if self._session is not None:
            await self._session.close()
            self._session = None

    def _new_session(self) -> aiohttp.ClientSession:
        context = ssl.create_default_context(cafile=self._hook.ca_file)
        return aiohttp.ClientSession(
            # A connection per message: a kept one that closes just then would mean a repetition.
            connector=aiohttp.TCPConnector(ssl=context, force_close=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=self._hook.timeout_s),
            auto_decompress=False,
            trust_env=False,
        )

    def _headers(self, message: Message) -> dict[str, str]:
        secrets = (self._hook.secret, *self._hook.old_secrets)
        signed = headers(secrets, message.id, int(time.time()), message.body)
        return {"content-type": "application/json", "user-agent": AGENT, **signed}

    @staticmethod
    async def _outcome(answer: aiohttp.ClientResponse) -> Outcome:
        status = answer.status
        if 200 <= status < 300:
            return Outcome(status)
        text = f"HTTP {status}"
        try:
            said = plain(await answer.content.read(SHOWN))
        except (TimeoutError, aiohttp.ClientError, OSError):
            said = ""
        if 300 <= status < 400:
            said = "redirects are not followed; configure the final address"
        return Outcome(
            status,
            f"{text}: {said}" if said else text,
            retry_after_s(answer.headers.get("retry-after", "")),
        )


def retry_after_s(value: str) -> int:
    """Seconds that a ``retry-after`` header asks for, at most a day; 0 if it says nothing."""
    value = value.strip()
    if value.isascii() and value.isdigit():
        seconds = int(value[:9])
    else:
        try:
            seconds = int(email.utils.parsedate_to_datetime(value).timestamp() - time.time()) + 1
        except (ValueError, OverflowError):
            return 0
    return max(0, min(seconds, LONGEST_WAIT_S))


def reason(error: Exception) -> str:
    """Why there was no answer, without the address, which may hold a token."""
    if isinstance(error, aiohttp.ClientConnectorCertificateError):
        return f"the certificate was not accepted: {error.certificate_error}"[:SHOWN]
    if isinstance(error, aiohttp.ClientConnectorError):
        return f"no connection: {_system(error.os_error)}"
    if isinstance(error, OSError):
        return _system(error)
    return f"no proper answer ({type(error).__name__})"


def _system(error: OSError) -> str:
    """The system's word for an error (name resolution has numbers of its own)."""
    if error.errno is not None and error.errno > 0:
        return os.strerror(error.errno)
    return (error.strerror or type(error).__name__)[:SHOWN]


def plain(raw: bytes) -> str:
    """The beginning of an answer as one line of printable text."""
    text = "".join(c if c.isprintable() else " " for c in raw.decode("utf-8", "replace"))
    return " ".join(text.split())
