"""The witness: records what has to be recorded before a request leaves, and what was said in it.

Only for requests it attends: all of them in the mode ``strict``, else those whose deployment or key
asks for content. They take the way of the rooms; the usual request never comes by here.
"""

from __future__ import annotations

import asyncio
import logging
import time

from bifrost._fast.gate import Gate, GateError
from bifrost.audit import events
from bifrost.audit.content import Side
from bifrost.call import Call
from bifrost.config.evidence import AuditLogs
from bifrost.errors import GatewayUnavailable, StoreError
from bifrost.governance.vault import Vault
from bifrost.identify import Grant

log = logging.getLogger("bifrost.witness")
PATIENCE_S = 5.0  # for an intent to reach the disk
LOOK_S = 0.002


class Testimony:
    """What is heard of one call's content."""

    def __init__(self, gate: Gate, vault: Vault, call: Call, *, full: bool) -> None:
        """Raises StoreError when the subject has no key and none can be made."""
        who = call.grant.who
        self._gate = gate
        self._request, self._key = call.request_id, who.key
        self._subject = who.user or who.key
        seal = vault.sealer(self._subject)
        self._asked = Side("request", seal, full=full)
        self._answered: Side | None = Side("response", seal, full=full)

    def begin(self, body: bytes) -> None:
        """Records the request; raises GateError, and then it must not leave."""
        self._asked.hear(body)
        self._put(self._asked)

    def hear(self, piece: bytes) -> None:
        """A piece of the answer, as its provider sent it."""
        if self._answered is not None:
            self._answered.hear(piece)

    def end(self) -> None:
        """Records the answer, once; it is given already, so what cannot be recorded is logged."""
        side, self._answered = self._answered, None
        if side is None:
            return
        try:
            self._put(side)
        except GateError as error:
            log.error(
                "an answer's content is not recorded",
                extra={"request": self._request, "error": str(error)},
            )

    def _put(self, side: Side) -> None:
        for event in side.told(self._request, self._key, self._subject):
            self._gate.append(events.encode(event), event.at)


class Witness:
    """Attends the calls of one process."""

    def __init__(self, gate: Gate, vault: Vault) -> None:
        self._gate = gate
        self._vault = vault
        self._evidence = AuditLogs()

    def configure(self, evidence: AuditLogs) -> None:
        """What the deployment asks for from now on."""
        self._evidence = evidence

    def attends(self, grant: Grant) -> bool:
        """Whether calls of this grant have to come by here."""
        return self._evidence.mode == "strict" or self._content(grant) != "none"

    def _content(self, grant: Grant) -> str:
        return grant.key.audit_content or self._evidence.content

    async def before(self, call: Call) -> None:
        """Records what must be recorded before an admitted call leaves.

        Raises GatewayUnavailable, and then it must not leave.
        """
        content = self._content(call.grant)
        try:
            if content != "none":
                await asyncio.to_thread(self._listen, call, content == "full")
            await self._intended(call)
        except (GateError, StoreError) as error:
            raise _refusal(error) from error

    async def again(self, call: Call) -> None:
        """The same before a further attempt; what was said in the request is recorded already."""
        try:
            await self._intended(call)
        except (GateError, StoreError) as error:
            raise _refusal(error) from error

    def before_embedded(self, call: Call) -> None:
        """The same for whoever sends the request himself: waits, and hears no content."""
        if self._evidence.mode != "strict":
            return
        try:
            sequence, deadline = self._intend(call), time.monotonic() + PATIENCE_S
            while not self._written(sequence, deadline):
                time.sleep(LOOK_S)
        except (GateError, StoreError) as error:
            raise _refusal(error) from error

    def _listen(self, call: Call, full: bool) -> None:
        testimony = Testimony(self._gate, self._vault, call, full=full)
        testimony.begin(call.body)
        call.testimony = testimony

    async def _intended(self, call: Call) -> None:
        if self._evidence.mode != "strict":
            return
        sequence = self._intend(call)
        deadline = time.monotonic() + PATIENCE_S
        while not self._written(sequence, deadline):
            await asyncio.sleep(LOOK_S)

    def _intend(self, call: Call) -> int:
        who, lane = call.grant.who, call.lane
        event = events.Intent(
            at=time.time_ns(), request=call.request_id, key=who.key, user=who.user, team=who.team,
            customer=who.customer, asked=call.scan.model, model=lane.model,
            provider=lane.host.name, reserved=call.reserved,
        )  # fmt: skip
        return self._gate.append(events.encode(event), event.at, admitting=True)

    def _written(self, sequence: int, deadline: float) -> bool:
        if self._gate.urge(sequence):
            return True
        if self._gate.barred or time.monotonic() > deadline:
            raise StoreError("the audit log did not take its record")
        return False


def _refusal(error: Exception) -> GatewayUnavailable:
    return GatewayUnavailable(f"This request cannot be recorded, so it was not sent: {error}")
