"""Lanes: for one grant and one model name, everything that does not change between requests.

Route, allowlist, price and the constant parts of events and headers are decided once and cached in
the grant; a policy change drops the grant, a configuration change drops the lanes.
"""

from __future__ import annotations

from collections.abc import Callable

from bifrost._fast.density import Densities, Density
from bifrost._fast.desk import LaneBase
from bifrost._fast.meters import Meter
from bifrost.audit import events
from bifrost.errors import ModelNotFound, ModelUnpriced, Refusal
from bifrost.governance.admission import check_model, share
from bifrost.identify import Grant
from bifrost.metering.bound import DEFAULT_CONTEXT
from bifrost.metering.catalogue import Catalogue
from bifrost.metering.prices import GEO, Price
from bifrost.meters import Meters
from bifrost.passage.passage import Passage
from bifrost.providers.table import ONLY, Host
from bifrost.routing.health import Health, Place
from bifrost.routing.rules import Rule, Rules
from bifrost.routing.targets import Router, Target
from bifrost.translate.translation import Traits
from bifrost.upstream.pool import Origin

LANES_PER_GRANT = 512
MOST_GOALS = 4_096
_CONTROLS = dict.fromkeys([*range(32), 127], "?")
MOST_LABELS = 1_280  # bytes of names in a reservation's note


class Goal:
    """What all lanes to one model of one host have in common; ``passage`` is for the calls that it
    cannot be sent as they are."""

    __slots__ = (
        "ceiling", "density", "geo", "meter", "passage", "price", "priced", "served", "shown",
    )  # fmt: skip

    def __init__(
        self,
        host: Host,
        model: str,
        price: Price,
        density: Density,
        meter: Meter,
        passage: Passage,
        priced: str,
    ) -> None:
        """``priced``: the name that its price goes by."""
        geos = price.multipliers.get(GEO, {})
        self.geo = host.geo if host.geo in geos else None
        self.passage = passage
        self.price = price
        self.meter = meter
        self.density = density
        self.ceiling = price.ceiling(None, None, self.geo)
        self.priced = priced
        named = {"priced": priced} if priced != model else {}
        self.served = events.members(model=model, provider_key=host.key_name(0), **named)
        self.shown = b"x-bf-provider: %b\r\nx-bf-model: %b\r\n" % (_line(host.name), _line(model))


class Lane(LaneBase):
    """One way from a key to a model: where it goes, what it costs, how it is labelled.

    ``direct``: its host speaks Anthropic's dialect, so that calls in it need no passage. Where
    there is a choice, ``weight`` is its target's share and ``key_weight`` its provider key's.
    """

    __slots__ = (
        "catalogue", "direct", "key_weight", "origin", "passage", "place", "price", "standby",
        "weight",
    )  # fmt: skip

    def __init__(
        self,
        grant: Grant,
        asked: str,
        target: Target,
        host: Host,
        origin: Origin,
        goal: Goal,
        catalogue: Catalogue,
        attempt: int | None = None,
        *,
        hedge: bool = False,
    ) -> None:
        """The goal's price is of ``catalogue``, whose digest stands in every event; ``attempt``
        too, for one that is not the first, and whether it is a ``hedge``."""
        self.host = host
        self.origin = origin
        self.passage = goal.passage
        self.direct = goal.passage.direct
        self.renamed = target.model if target.model != asked else None
        price = self.price = goal.price
        self.catalogue = catalogue
        self.weight, self.key_weight = target.weight, 1.0
        self.standby = target.standby
        self.place = Place(host.name, host.key_name(0), target.model)
        self.shown = goal.shown
        self.start = b"POST " + origin.path_prefix + host.prefix("messages")
        self.signed = host.signed(origin.host_header)
        who = grant.who
        prefix = events.opening(
            key=who.key, user=who.user, team=who.team, customer=who.customer, asked=asked,
            provider=host.name, provider_type=host.kind if host.kind != host.name else None,
            prices=catalogue.digest[:16], attempt=attempt, hedge=hedge or None,
        )  # fmt: skip
        if len(prefix) + len(goal.served) > MOST_LABELS:
            raise ModelNotFound("The model's name is longer than any model's name is.")
        context = price.max_input_tokens or DEFAULT_CONTEXT
        plan = grant.plan(host.name, asked, target.model)
        super().__init__(
            target.model, plan, prefix, goal.served, goal.ceiling, price.tariffs, context,
            goal.density, goal.meter, goal.priced, goal.geo,
        )  # fmt: skip


def _shared(grant: Grant, lanes: list[Lane]) -> list[Lane]:
    """Those that have a share of the traffic of this key; all of them if none has."""
    for lane in lanes:
        lane.weight *= share(grant.key.provider_configs, lane.host.name)
    having = [lane for lane in lanes if lane.weight]
    for lane in lanes if not having else ():
        lane.weight = 1.0
    return having or lanes


def _line(name: str) -> bytes:
    """A name as it may stand in a header line."""
    return name.translate(_CONTROLS).encode("latin-1", "replace")


class Lanes:
    """Finds the lane of a request; replaced as a whole when the configuration or prices change."""

    def __init__(
        self,
        router: Router,
        hosts: dict[str, tuple[Host, Origin]],
        catalogue: Catalogue,
        generation: int,
        densities: Densities,
        meters: Meters,
        attends: Callable[[Grant], bool] = lambda _: False,
        *,
        health: Health,
        max_attempts: int,
        rules: Rules,
    ) -> None:
        """``attends(grant)``: its calls must not be admitted by the desk alone; ``health`` of all
        targets; ``max_attempts``: targets tried for one call; ``rules`` go before the router."""
        self.health, self.max_attempts, self.rules = health, max_attempts, rules
        self._attends = attends
        self.router = router
        self.hosts = hosts
        self.catalogue = catalogue
        self.generation = generation
        self.densities = densities
        self.meters = meters
        self._goals: dict[Place, Goal] = {}

    def find(self, grant: Grant, asked: str, rule: Rule | None = None) -> list[Lane]:
        """The lanes for a model name, or its refusal: not found, blocked or unpriced.

        One per target and provider key that has a share of the traffic, as they are listed: of the
        name, or of the rule that holds.
        """
        name = asked if rule is None else (asked, rule.name)
        if grant.generation != self.generation:
            grant.lanes.clear()
            grant.generation = self.generation
        found = grant.lanes.get(name)
        if found is None:
            targets = self.router.targets(asked) if rule is None else rule.targets(asked)
            lanes = _shared(grant, self._open(grant, asked, targets))
            if len(grant.lanes) >= LANES_PER_GRANT:
                grant.lanes.clear()
            usual = len(lanes) == 1 and lanes[0].direct
            alone = usual and not self._attends(grant) and not self.rules.concern(asked)
            found = grant.lanes[name] = lanes[0] if alone else lanes  # a list is not for the desk
        return [found] if isinstance(found, Lane) else found

    def again(self, grant: Grant, asked: str, lane: Lane, attempt: int, *, hedge: bool) -> Lane:
        """The same lane for an attempt that is not the first of its request."""
        target = Target(lane.host.name, lane.model)
        goal = self._goal(lane.host, lane.origin, lane.model)
        assert goal is not None
        return Lane(
            grant, asked, target, lane.host, lane.origin, goal, self.catalogue, attempt, hedge=hedge
        )

    def _open(self, grant: Grant, asked: str, targets: list[Target]) -> list[Lane]:
        lanes: list[Lane] = []
        refusal: Refusal | None = None
        for target in targets:
            host, origin = self.hosts[target.provider]
            name = asked.removeprefix(f"{target.provider}/")
            blocked = check_model(grant.chain, target.provider, name, target.model)
            if blocked is not None:
                refusal = refusal or blocked
                continue
            if not host.serving(target.model):
                refusal = refusal or ModelNotFound(
                    f"Model {target.model!r} of provider {target.provider!r} has an API there that"
                    " the gateway does not speak; ask for another model."
                )
                continue
            lane = None
            for alone, weight in host.each():
                goal = self._goal(alone, origin, target.model)
                if goal is not None:
                    lane = Lane(grant, asked, target, alone, origin, goal, self.catalogue)
                    lane.key_weight = weight
                    lanes.append(lane)
            if lane is None:
                refusal = refusal or ModelUnpriced(
                    f"Model {target.model!r} of provider {target.provider!r} has no price, so its "
                    "spending cannot be controlled; ask your platform team to add one "
                    "(`bifrost prices set`)."
                )
        if not lanes:
            assert refusal is not None
            raise refusal
        return lanes

    def _goal(self, host: Host, origin: Origin, model: str) -> Goal | None:
        """The goal of all lanes to a model of a host; None without a price."""
        place = Place(host.name, host.key_name(0), model)
        goal = self._goals.get(place)
        if goal is None:
            priced = self.catalogue.priced(host.kind, model, host.region, name=host.name)
            price = self.catalogue.price(host.kind, priced, name=host.name)
            if price is None:
                return None
            if len(self._goals) >= MOST_GOALS:
                self._goals.clear()
            density = self.densities.find(host.name, model)
            meter = self.meters.meter("model", host.name, model)
            only = ONLY.get(self.catalogue.mode(host.kind, model) or "chat", ())
            passage = Passage(host, origin, model, self._traits(host, model, price), only)
            goal = Goal(host, model, price, density, meter, passage, priced)
            self._goals[place] = goal
        return goal

    def _traits(self, host: Host, model: str, price: Price) -> Traits:
        """What a translator must know; what the catalogue does not know is not held against it."""
        features = self.catalogue.features(host.kind, model)
        mode = self.catalogue.mode(host.kind, model)
        quirks = host.quirks
        field = quirks.reasoning_field
        return Traits(
            max_output=price.max_output_tokens,
            reasons=features.get("reasoning", False),
            extra_high=features.get("xhigh_reasoning_effort", False),
            adaptive=features.get("adaptive_thinking", False),
            forced_tools=features.get("forced_tool_use", True),
            prefill=features.get("assistant_prefill", True),
            vision=features.get("vision", True),
            sampling=features.get("sampling_params", True),
            legacy_limit=host.row.legacy_limit,
            splits_reasoning=host.row.splits_reasoning,
            reasoning_field=field if field != "none" else None,
            reasoning_due=bool(quirks.reasoning_due) and features.get("reasoning", not features),
            refuses_reasoning=field == "none",
            short_call_ids=bool(quirks.short_call_ids),
            embeds=None if mode is None else mode == "embedding",
            caches=features.get("prompt_caching", False),
            structured=features.get("native_structured_output", False),
        )
