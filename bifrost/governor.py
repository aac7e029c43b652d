"""The governor: what a request must clear before it leaves, and the books when it is back.

Identify, route, allowlist, bound, reserve; then meter, price, settle. Knows no HTTP: the pipeline
and the embedded ``Gateway`` both stand on it.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any

from bifrost._fast.desk import Desk
from bifrost._fast.gate import Exhausted, GateError
from bifrost.audit import events
from bifrost.audit.arrivals import Arrivals
from bifrost.call import Call
from bifrost.errors import (
    FieldBlocked,
    InvalidRequest,
    Refusal,
    VirtualKeyBlocked,
    VirtualKeyNotFound,
    VirtualKeyRequired,
)
from bifrost.facts import facts
from bifrost.governance.admission import Treasury, check_fields
from bifrost.identify import Grant, Identifier
from bifrost.lanes import Lane, Lanes
from bifrost.metering.bound import Bound, bound
from bifrost.metering.usage import Usage
from bifrost.route import Route, seed_for

log = logging.getLogger("bifrost.governor")
LEAST_OUTPUT = 1_024  # tokens; a lower limit would only make an agent fail
USUAL_OUTPUT = 32_000  # tokens, where neither the client nor the catalogue knows a limit


class Governor:
    """Admits and settles calls for one process.

    The desk does the usual request in compiled code; what it leaves is decided here.
    """

    def __init__(
        self,
        identifier: Identifier,
        treasury: Treasury,
        lanes: Lanes,
        renew: Callable[[], object] = lambda: None,
    ) -> None:
        """``renew()`` may replace ``lanes``; it is called when the policy moved, before a lane is
        looked for."""
        self.identifier = identifier
        self.treasury = treasury
        self.arrivals = Arrivals()
        self._renew = renew
        self._known = -1  # the policy epoch of the last ``renew``
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
        try:
            grant = self.identifier.identify(head.credential, head.foreign_credential)
        except (VirtualKeyRequired, VirtualKeyNotFound, VirtualKeyBlocked) as refusal:
            self._turned_away(call, refusal)
            raise
        call.grant = grant
        return grant

    def _turned_away(self, call: Call, refusal: Refusal) -> None:
        """Records who was not let in; what is repeated is only counted."""
        credential, known = call.head.credential, refusal.key
        unknown = credential is not None and known is None
        event = self.arrivals.note(
            events.Authentication(
                at=call.at, door="models", outcome="refused", code=refusal.code, key=known,
                credential=self.identifier.digest(credential).hex()[:16] if unknown else None,
                client=call.client.decode() if call.client is not None else None,
                request=call.request_id,
            )
        )  # fmt: skip
        if event is not None:
            self._put(event)

    def tell(self, *, everything: bool = False) -> None:
        """Records what was counted of those who were not let in; call it about once a second."""
        for event in self.arrivals.due(everything=everything):
            self._put(event)

    def _put(self, event: events.Event) -> None:
        """A refusal must reach its client also where it cannot be recorded."""
        try:
            self.treasury.gate.append(events.encode(event), time.time_ns())
        except Exception as error:
            log.error("a refusal could not be recorded", extra={"error": str(error)})

    def still(self, call: Call) -> Refusal | None:
        """Why a call under way may not go on (its key was taken back), or None."""
        try:
            self.identifier.identify(call.head.credential)
        except Refusal as refusal:
            return refusal
        return None

    def remaining(self, call: Call) -> tuple[int, int]:
        """(nano-USD left at the call's tightest level or -1, when its window ends in ns)."""
        if call.ticket is not None:
            return call.ticket.remaining, call.ticket.resets_ns
        try:
            grant = call.grant or self.identifier.identify(call.head and call.head.credential)
            plan = call.lane.plan if call.lane is not None else grant.whole()
            return self.treasury.gate.remaining(plan, time.time_ns())
        except (Refusal, GateError):
            return -1, 0

    def count(self, call: Call) -> None:
        """Lets a token count pass: key, model and fields must be allowed; no money moves."""
        grant, scan = self.identify(call), call.scan
        if scan.model is None:
            raise InvalidRequest("model: Field required")
        if scan.fields:
            check_fields(grant.key, scan.fields)
        call.lane = self._lane(call, grant)

    def current(self) -> Lanes:
        """The lanes under the prices that hold now.

        A change of prices moves the policy epoch, and the keyring then drops every grant with its
        lanes. So whoever could see an old price comes by here first, and the usual request never.
        """
        epoch = self.identifier.epoch()
        if epoch != self._known:
            self._renew()
            self._known = epoch
        return self._lanes

    def named(self, names: Sequence[str]) -> str:
        """Which of several names of one model its lane is to be found by; see ``Router.named``."""
        return self.current().router.named(names)

    def admit(self, call: Call) -> None:
        """Reserves the worst case of ``call`` at every level, or raises a Refusal, nothing held.

        Needs ``call.head``, ``call.body`` and ``call.scan``; sets grant, lane, reserved and ticket.
        Waits for nobody: what requests in flight hold counts as spent.
        """
        try:
            self.attempt(call)
        except Exhausted as error:
            raise self.refuse(call, error) from error

    def attempt(self, call: Call) -> None:
        """The same, but what cannot be held now comes as Exhausted, not yet refused."""
        since = time.monotonic_ns()
        try:
            if not self.desk.admit(call):
                self._admit(call, since)
        except Refusal as refusal:
            self._refused(call, refusal)
            raise
        except GateError as error:
            raise self.refuse(call, error) from error

    def hold(self, call: Call) -> bool:
        """The same for an attempt beside another one of the same request: where it cannot be held
        nothing is recorded and nobody is refused."""
        try:
            self._admit(call, time.monotonic_ns())
        except (Refusal, Exhausted, GateError):
            return False
        return True

    def refuse(self, call: Call, error: Exhausted | GateError) -> Refusal:
        """Records why a call cannot be admitted and returns it as its refusal."""
        lane = call.lane
        refusal = self.treasury.refusal(lane.plan.labels, error, call.reserved)
        self._refused(call, refusal)
        return refusal

    def lower(self, call: Call, affordable: int) -> bool:
        """Sets the call's output limit to what ``affordable`` nano-USD pay for.

        False, and nothing changed, if that is less than the call can make use of: 1,024 tokens,
        and more than its budget for thinking; or no less than it had.
        """
        scan, lane, before = call.scan, call.lane, call.output_limit
        if not _generates(call):
            return False
        high = (before or scan.max_tokens) - 1
        low = max(LEAST_OUTPUT, (scan.thinking_budget or 0) + 1)
        if self._costs(call, lane, low) > affordable:
            high = -1
        while low < high:
            middle = (low + high + 1) // 2
            if self._costs(call, lane, middle) <= affordable:
                low = middle
            else:
                high = middle - 1
        call.output_limit = low if low <= high else before
        return low <= high

    def _costs(self, call: Call, lane: Lane, output: int) -> int:
        call.output_limit = output
        return self._worst(call, lane)[0]

    def _admit(self, call: Call, since: int) -> None:
        """What the desk left: a first request, a governed field, a server tool, a choice."""
        grant = self.identify(call)
        scan = call.scan
        if scan.model is None:
            raise InvalidRequest("model: Field required")
        if scan.max_tokens is None and call.dialect is None:
            raise InvalidRequest("max_tokens: Field required")
        if scan.fields:
            check_fields(grant.key, scan.fields)
        lane = call.lane = self._lane(call, grant)
        self._limit(call, lane)
        if scan.fields:
            unknown = lane.price.supports(scan.service_tier, scan.speed, scan.inference_geo)
            if unknown is not None:
                raise FieldBlocked(
                    f"Model {lane.model!r} has no price for {unknown}; remove it from the "
                    "request or ask your platform team to add it (`bifrost prices set`)."
                )
        amount, input_tokens, output_tokens = self._worst(call, lane)
        self.desk.hold(call, lane, amount, input_tokens, output_tokens, since)

    def _lane(self, call: Call, grant: Grant) -> Lane:
        """The lane to take now; where there is a choice, the call gets a route."""
        lanes, asked = self.current(), call.scan.model or ""
        route: Route | None = call.route
        if route is None:
            rule = lanes.rules.find(asked, partial(facts, call, grant, self.treasury.gate))
        else:
            rule = lanes.rules.named(route.rule)  # it was decided
        found = lanes.find(grant, asked, rule)
        if route is None:
            if len(found) == 1:
                return found[0]
            name = rule.name if rule is not None else None
            route = call.route = Route(seed_for(call), lanes.health, lanes.max_attempts, name)
        lane = route.lane(found)
        if not route.attempts:
            return lane
        return lanes.again(grant, asked, lane, route.attempts + 1, hedge=call.hedge)

    @staticmethod
    def _limit(call: Call, lane: Lane) -> None:
        """Limits the output of a call whose client names no limit, or one that its host refuses as
        too low: what is reserved must be what is asked for."""
        if call.output_limit or not _generates(call):
            return
        asked = call.scan.max_tokens
        if asked is None:
            call.output_limit = lane.price.max_output_tokens or USUAL_OUTPUT
        elif not lane.direct:
            least = lane.passage.least_output(call.dialect.api if call.dialect else "messages")
            call.output_limit = least if asked < least else 0

    @staticmethod
    def _worst(call: Call, lane: Lane) -> tuple[int, int, int]:
        """(nano-USD, input tokens, output tokens) that the call cannot exceed."""
        scan, price = call.scan, lane.price
        if _generates(call):
            most = bound(
                scan,
                len(call.body),
                price.max_input_tokens,
                per_kib=lane.density.per_kib,
                max_tokens=call.output_limit or None,
            )
        else:  # many inputs, each with a window of its own; none has a token without a byte
            most = Bound(len(call.body), 0)
        amount = price.bound(
            input_tokens=most.input_tokens,
            max_tokens=most.output_tokens,
            tier=scan.service_tier,
            speed=scan.speed,
            geo=lane.geo or scan.inference_geo,
            cache_1h=scan.ttl_1h,
            web_searches=most.web_searches,
        )
        return amount, most.input_tokens, most.output_tokens

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
            event.prices = lane.catalogue.digest[:16]
        if call.client is not None:
            event.client = call.client.decode()
        if head.session is not None:
            event.session = head.session[:256].decode("latin-1")
        if head.user_agent is not None:
            event.agent = head.user_agent[:120].decode("latin-1")
        self._put(event)

    def settle(self, call: Call, usage: Usage | None, outcome: str) -> int:
        """Books what a call used (None: nothing) at every level and spends its ticket; nano-USD.

        If the books cannot be written the reservation stays, so nothing can be overspent.
        """
        try:
            return self.desk.settle(call, usage, outcome, self._price)
        except GateError as error:
            return self.unbooked(call, error)

    @staticmethod
    def unbooked(call: Call, error: GateError) -> int:
        """What is known of the cost of a call that could not be booked: nothing."""
        log.error(
            "a request could not be settled; its reservation stays",
            extra={"request": call.request_id, "error": str(error)},
        )
        return 0

    def _price(self, call: Call, usage: Usage) -> tuple[Usage, int, bytes]:
        """The usage as it is billed, its cost and what the event must add to it, where tokens alone
        do not say it. The prices are those the call was admitted under."""
        scan, lane = call.scan, call.lane
        if scan.fields:
            usage = usage.assuming(tier=scan.service_tier, speed=scan.speed, geo=scan.inference_geo)
        host = lane.host
        cost = lane.catalogue.cost(host.kind, usage, lane.price, name=host.name)
        return usage, cost, events.samplings(usage.iterations)


def _generates(call: Call) -> bool:
    return call.dialect is None or call.dialect.generates
