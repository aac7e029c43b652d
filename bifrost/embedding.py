"""The governance core without a server, for people who have their own.

``Gateway.admit`` decides and reserves before a request leaves, ``settle`` or ``release`` closes it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec

from bifrost._fast import wire
from bifrost.call import Call, new_request_id
from bifrost.config.load import Loaded, default_settings, load, with_default_providers
from bifrost.config.settings import Settings
from bifrost.core import Core
from bifrost.errors import InvalidRequest
from bifrost.governance.declared import Minted
from bifrost.metering.usage import Usage, from_message

Headers = Mapping[str, str] | Iterable[tuple[bytes, bytes]]


class Ticket:
    """A request that was admitted: spend it with exactly one ``settle`` or ``release``.

    ``reserved`` nano-USD are held at every level; ``remaining`` is what the tightest budget has
    left beside that (-1: no budget); ``model`` and ``provider`` say where the request should go.
    """

    def __init__(self, call: Call) -> None:
        self._call = call
        self.request_id: str = call.request_id
        self.reserved: int = call.reserved
        self.remaining: int = call.ticket.remaining
        self.model: str = call.lane.model
        self.provider: str = call.lane.host.name


class Gateway:
    """One process's share of a data directory; safe to call from one thread at a time.

    ``minted`` are the declared virtual keys that got their secret at this opening; nothing else
    ever shows it. Open one gateway per process and data directory, after any fork.
    """

    def __init__(self, core: Core, minted: Sequence[Minted] = ()) -> None:
        self._core = core
        self.minted = tuple(minted)

    @classmethod
    def open(
        cls,
        config: str | Path | Settings | Loaded | None = None,
        *,
        data_dir: str | Path | None = None,
        steward: bool = True,
    ) -> Gateway:
        """Opens the data directory and declares what the configuration names.

        ``steward`` offers this process for draining the outbox (one process of a data directory
        does it). Raises ConfigError or StoreError.
        """
        if isinstance(config, str | Path):
            config = load(config)
        if isinstance(config, Loaded):
            config = config.settings
        settings = with_default_providers(config) if config is not None else default_settings()
        core = Core(settings, Path(data_dir or settings.data_dir or "data"))
        try:
            minted = core.declare(settings)
        except BaseException:
            core.close()
            raise
        if steward:
            core.start_steward()
        return cls(core, minted)

    def admit(self, headers: Headers, *, model: str | None = None, body: bytes) -> Ticket:
        """Clears a Messages request at every level and holds its worst case.

        ``headers`` carry the virtual key; ``body`` is the raw JSON; ``model`` overrides the body's
        for routing. Raises a Refusal (``code``, ``status``, the sentence) and holds nothing then.
        """
        call = Call(new_request_id(), None)
        try:
            call.head = wire.read_head(_raw(headers))
            call.scan = wire.scan(body)
            if model is not None and model != call.scan.model:
                body = wire.rewrite(body, call.scan, model, None)
                call.scan = wire.scan(body)
        except wire.WireError as error:
            raise InvalidRequest(f"The request is not valid: {error}") from None
        call.body = body
        self._core.governor.admit(call)
        try:
            self._core.witness.before_embedded(call)
        except BaseException:
            self._core.governor.settle(call, None, "error")
            raise
        return Ticket(call)

    def settle(self, ticket: Ticket, usage: Usage | Mapping[str, Any] | bytes) -> int:
        """Books the true cost and frees the rest; returns nano-USD.

        ``usage`` is a ``Usage``, or the ``usage`` object of an Anthropic answer (mapping or JSON).
        Raises ValueError for a spent ticket.
        """
        if not isinstance(usage, Usage):
            raw = usage if isinstance(usage, bytes) else msgspec.json.encode(usage)
            usage = from_message(raw, None)
        return self._close(ticket, usage, "ok")

    def release(self, ticket: Ticket) -> None:
        """Frees the reservation of a request that cost nothing. Raises ValueError if spent."""
        self._close(ticket, None, "error")

    def _close(self, ticket: Ticket, usage: Usage | None, outcome: str) -> int:
        call = ticket._call
        if call.settled:
            raise ValueError("this ticket is already settled or released")
        call.status = 200 if usage is not None else 0
        return self._core.governor.settle(call, usage, outcome)

    def refresh(self) -> None:
        """Notices a changed price file and changes whose writer died half-way, and settles what
        found no room on the disk.

        Call it about once a second if you can.
        """
        self._core.keep()

    def close(self) -> None:
        """Flushes and closes the stores."""
        self._core.close()


def _raw(headers: Headers) -> list[tuple[bytes, bytes]]:
    if not isinstance(headers, Mapping):
        return [(name.lower(), value) for name, value in headers]
    try:
        return [
            (name.lower().encode("latin-1"), value.encode("latin-1"))
            for name, value in headers.items()
        ]
    except UnicodeEncodeError as error:
        raise InvalidRequest(f"The request's headers are malformed: {error.reason}.") from None
