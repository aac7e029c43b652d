"""The governor: what a request must clear before it leaves, and the books when it is back.

Identify, route, allowlist, bound, reserve; then meter, price, settle. Knows no HTTP: the pipeline
and the embedded ``Gateway`` both stand on it.
"""

from __future__ import annotations

import logging
import time
from typing import Any

from bifrost._fast.desk import Desk
from bifrost._fast.gate import Exhausted, GateError
from bifrost.audit import events
from bifrost.call import Call
from bifrost.errors import FieldBlocked, InvalidRequest, Refusal
from bifrost.governance.admission import Treasury, check_fields
from bifrost.identify import Grant, Identifier
from bifrost.lanes import Lane, Lanes
from bifrost.metering.bound import bound
from bifrost.metering.usage import Usage

log = logging.getLogger("bifrost.governor")


class Governor:
    """Admits and settles calls for one process.

    The desk does the usual request in compiled code; what it leaves is decided here.
    """

    def __init__(self, identifier: Identifier, treasury: Treasury, lanes: Lanes) -> None:
        self.identifier = identifier
        self.treasury = treasury
        self.desk = Desk(treasury.gate, identifier.keyring)
        self.lanes = lanes

    @property
    def lanes(self) -> Lanes:
        """The lanes of the present configuration; setting them makes the desk forget the old."""
        return self._lanes

    @lanes.setter
    def lanes(self, lanes: Lanes) -> None:
        self._lanes = lanes
        self.desk.generation = lanes.generation

    def identify(self, call: Call) -> Grant:
        """Finds the grant of a call; raises the credential's refusal."""
        head = call.head
        grant = self.identifier.identify(head.credential, head.foreign_credential)
        call.grant = grant
        return grant

    def admit(self, call: Call) -> None:
        """Reserves the worst case of ``call`` at every level, or raises a Refusal, nothing held.

        Needs ``call.head``, ``call.body`` and ``call.scan``; sets grant, lane, reserved and ticket.
        """
        since = time.monotonic_ns()
        try:
            if not self.desk.admit(call):
                self._admit(call, since)
        except Refusal as refusal:
            self._refused(call, refusal)
            raise
        except (Exhausted, GateError) as error:
            blocked = self.treasury.refusal(call.grant, error, call.reserved)
            self._refused(call, blocked)
            raise blocked from error

    def _admit(self, call: Call, since: int) -> None:
        """What the desk left: a first request, a governed field, a server tool, a choice."""
        grant = self.identify(call)
        scan = call.scan
        if scan.model is None:
            raise InvalidRequest("model: Field required")
        if scan.max_tokens is None:
            raise InvalidRequest("max_tokens: Field required")
        if scan.fields:
            check_fields(grant.key, scan.fields)
        call.lane = lane = self.lanes.find(grant, scan.model)
        self.desk.hold(call, lane, self._worst(call, lane), since)

    def _worst(self, call: Call, lane: Lane) -> int:
        scan, price = call.scan, lane.price
        if scan.fields:
            unknown = price.supports(scan.service_tier, scan.speed, scan.inference_geo)
            if unknown is not None:
                raise FieldBlocked(
                    f"Model {lane.model!r} has no price for {unknown}; remove it from the "
                    "request or ask your platform team to add it to the price file."
                )
        most = bound(scan, len(call.body), price.max_input_tokens)
        return price.bound(
            input_tokens=most.input_tokens,
            max_tokens=most.output_tokens,
            tier=scan.service_tier,
            speed=scan.speed,
            geo=scan.inference_geo,
            cache_1h=scan.ttl_1h,
            web_searches=most.web_searches,
        )

    def _refused(self, call: Call, refusal: Refusal) -> None:
        """Records a refusal of a known key; who knows no key is not in the books."""
        grant: Any = call.grant
        if grant is None:
            return
        lane, who, head = call.lane, grant.who, call.head
        event = events.ModelAccess(
            at=call.at, request=call.request_id, key=who.key, user=who.user, team=who.team,
            customer=who.customer, asked=call.scan.model, outcome="refused", code=refusal.code,
            status=refusal.status, stream=call.scan.stream, reserved=call.reserved,
            took_ns=time.monotonic_ns() - call.began,
        )  # fmt: skip
        if lane is not None:
            event.model, event.provider = lane.model, lane.host.name
            event.prices = self.lanes.catalogue.digest[:16]
        if head.session is not None:
            event.session = head.session[:256].decode("latin-1")
        if head.user_agent is not None:
            event.agent = head.user_agent[:120].decode("latin-1")
        try:
            self.treasury.gate.append(events.encode(event), time.time_ns())
        except Exception as error:  # the refusal itself must still reach the client
            log.error("a refusal could not be recorded", extra={"error": str(error)})

    def settle(self, call: Call, usage: Usage | None, outcome: str) -> int:
        """Books what a call used (None: nothing) at every level and spends its ticket; nano-USD.

        If the books cannot be written the reservation stays, so nothing can be overspent.
        """
        call.settled = True
        try:
            return self.desk.settle(call, usage, outcome, self._price)
        except GateError as error:
            log.error(
                "a request could not be settled; its reservation stays",
                extra={"request": call.request_id, "error": str(error)},
            )
            return 0

    def _price(self, call: Call, usage: Usage) -> tuple[Usage, int]:
        """The usage as it is billed and its cost, where tokens alone do not say it."""
        scan, lane = call.scan, call.lane
        if scan.fields:
            usage = usage.assuming(tier=scan.service_tier, speed=scan.speed, geo=scan.inference_geo)
        return usage, self.lanes.catalogue.cost(lane.host.kind, usage, lane.price)
