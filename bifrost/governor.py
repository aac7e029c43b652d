"""The governor: what a request must clear before it leaves, and the books when it is back.

Identify, route, allowlist, bound, reserve; then meter, price, settle. Knows no HTTP: the pipeline
and the embedded ``Gateway`` both stand on it.
"""

from __future__ import annotations

import logging
import time
from copy import copy
from typing import Any

from bifrost.audit import events
from bifrost.call import Call
from bifrost.errors import FieldBlocked, GatewayUnavailable, InvalidRequest, Refusal
from bifrost.governance.admission import Treasury, check_fields
from bifrost.identify import Grant, Identifier
from bifrost.lanes import Lanes
from bifrost.metering.bound import bound
from bifrost.metering.usage import Usage

log = logging.getLogger("bifrost.governor")


class Governor:
    """Admits and settles calls for one process."""

    def __init__(self, identifier: Identifier, treasury: Treasury, lanes: Lanes) -> None:
        self.identifier = identifier
        self.treasury = treasury
        self.lanes = lanes

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
        grant = self.identify(call)
        scan = call.scan
        try:
            if scan.model is None:
                raise InvalidRequest("model: Field required")
            if scan.max_tokens is None:
                raise InvalidRequest("max_tokens: Field required")
            if scan.fields:
                check_fields(grant.key, scan.fields)
            lane = call.lane = self.lanes.find(grant, scan.model)
            call.reserved = self._worst(call, scan, lane.price)
            call.ticket = self.treasury.reserve(
                grant, call.reserved, lane.described(call.request_id), call.at, since
            )
        except Refusal as refusal:
            self._refused(call, refusal)
            raise

    def _worst(self, call: Call, scan: Any, price: Any) -> int:
        if scan.fields:
            unknown = price.supports(scan.service_tier, scan.speed, scan.inference_geo)
            if unknown is not None:
                raise FieldBlocked(
                    f"Model {call.lane.model!r} has no price for {unknown}; remove it from the "
                    "request or ask your platform team to add it to the price file."
                )
        most = bound(scan, len(call.body), price.max_input_tokens)
        worst: int = price.bound(
            input_tokens=most.input_tokens,
            max_tokens=most.output_tokens,
            tier=scan.service_tier,
            speed=scan.speed,
            geo=scan.inference_geo,
            cache_1h=scan.ttl_1h,
            web_searches=most.web_searches,
        )
        return worst

    def _refused(self, call: Call, refusal: Refusal) -> None:
        event = self._event(call, "refused")
        event.code = refusal.code
        event.status = refusal.status
        try:
            self.treasury.gate.append(events.encode(event), time.time_ns())
        except Exception as error:  # the refusal itself must still reach the client
            log.error("a refusal could not be recorded", extra={"error": str(error)})

    def settle(self, call: Call, usage: Usage | None, outcome: str) -> int:
        """Books what a call used (None: nothing) at every level and spends its ticket; nano-USD.

        If the books cannot be written the reservation stays, so nothing can be overspent.
        """
        since = time.monotonic_ns()
        call.settled = True
        lane = call.lane
        event = self._event(call, outcome)
        cost = 0
        if usage is not None:
            scan = call.scan
            if scan.fields:
                usage = usage.assuming(
                    tier=scan.service_tier, speed=scan.speed, geo=scan.inference_geo
                )
            cost = self.lanes.catalogue.cost(lane.host.kind, usage, lane.price)
            event.in_fresh = usage.in_fresh
            event.in_cache_read = usage.in_cache_read
            event.in_cache_w5m = usage.in_cache_w5m
            event.in_cache_w1h = usage.in_cache_w1h
            event.in_tool = usage.in_tool
            event.out_text = usage.out_text
            event.out_think = usage.out_think
            event.web_searches = usage.web_searches
            event.tier, event.speed, event.geo = usage.tier, usage.speed, usage.geo
            event.source = usage.source
            if usage.served_model is not None:
                event.model = usage.served_model
        event.cost = cost
        try:
            self.treasury.settle(
                call.ticket,
                cost,
                event.in_fresh + event.in_cache_read + event.in_cache_w5m + event.in_cache_w1h,
                event.out_text + event.out_think,
                events.encode(event),
                since,
            )
        except GatewayUnavailable as error:
            log.error(
                "a request could not be settled; its reservation stays",
                extra={"request": call.request_id, "error": str(error)},
            )
        return cost

    def _event(self, call: Call, outcome: str) -> events.ModelAccess:
        """The event of a call as far as it is known; a lane brings most of it ready-made."""
        lane, head = call.lane, call.head
        if lane is not None:
            event: events.ModelAccess = copy(lane.event)
            if call.key_index:
                event.provider_key = lane.host.key_name(call.key_index)
        else:
            who = call.grant.who
            event = events.ModelAccess(
                at=0, request="", key=who.key, user=who.user, team=who.team,
                customer=who.customer, asked=call.scan.model, outcome="",
            )  # fmt: skip
        event.at = call.at
        event.request = call.request_id
        event.outcome = outcome
        event.status = call.status
        event.stream = call.scan.stream
        event.reserved = call.reserved
        event.took_ns = time.monotonic_ns() - call.began
        if head.session is not None:
            event.session = head.session.decode("latin-1")
        if head.user_agent is not None:
            event.agent = head.user_agent[:120].decode("latin-1")
        if call.upstream_request is not None:
            event.upstream_request = call.upstream_request
        if call.first_byte:
            event.first_byte_ns = call.first_byte - call.began
        return event
