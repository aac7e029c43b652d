"""Rules: the first whose condition holds says where a request goes, in place of its model's name.

Pure: what is known of a request is brought by whoever asks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import msgspec

from bifrost.config.conditions import Condition
from bifrost.patterns import any_matches
from bifrost.routing.targets import Aim, Target

log = logging.getLogger("bifrost.rules")


class Rule(msgspec.Struct, frozen=True):
    """For which model names (patterns) it asks its condition, and where it leads; a target without
    model keeps the name."""

    name: str
    models: tuple[str, ...]
    when: Condition
    goals: tuple[Aim, ...]

    def targets(self, asked: str) -> list[Target]:
        """Where it sends a request for that name."""
        return [
            Target(provider, to or asked, weight, standby)
            for provider, to, weight, standby in self.goals
        ]


class Rules:
    """All rules, in their order."""

    def __init__(self, rules: Iterable[Rule] = ()) -> None:
        self._rules = tuple(rules)
        self._told: set[tuple[str, str]] = set()

    def concern(self, asked: str) -> bool:
        """Whether there is any for this model name."""
        return any(any_matches(asked, rule.models) for rule in self._rules)

    def named(self, name: str | None) -> Rule | None:
        """The rule of that name, if there is one still."""
        return next((rule for rule in self._rules if rule.name == name), None)

    def find(self, asked: str, facts: Callable[[Iterable[str]], Mapping[str, Any]]) -> Rule | None:
        """The rule that holds, if one does; ``facts(names)`` tells what is asked about.

        A condition that cannot be decided does not hold; why is logged once.
        """
        for rule in self._rules:
            if any_matches(asked, rule.models) and self._holds(rule, facts(rule.when.facts)):
                return rule
        return None

    def _holds(self, rule: Rule, facts: Mapping[str, Any]) -> bool:
        try:
            return rule.when.holds(facts)
        except ValueError as error:
            told = (rule.name, str(error))
            if told not in self._told and len(self._told) < 100:
                self._told.add(told)
                log.warning(
                    "a rule could not be decided", extra={"rule": rule.name, "error": str(error)}
                )
            return False
