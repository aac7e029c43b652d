"""Where a model name leads: an alias, ``provider/model`` or a plain name becomes targets.

Pure: no I/O, no prices, no keys.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import msgspec

from bifrost.errors import ModelNotFound
from bifrost.patterns import matches, specificity


class Target(msgspec.Struct, frozen=True):
    """One place a request can go: provider name, the model's name there, relative weight.

    ``standby``: only where the others fail or rest.
    """

    provider: str
    model: str
    weight: float = 1.0
    standby: bool = False


Aim = tuple[str, str | None, float, bool]  # as configured: a target whose model may be missing


class Alias(msgspec.Struct, frozen=True):
    """A configured name or glob and where it leads; a target without model keeps the name."""

    pattern: str
    targets: tuple[Aim, ...]


class Router:
    """Compiled from the configuration; replaced as a whole when that changes."""

    def __init__(
        self,
        providers: list[str],
        aliases: list[Alias],
        serves: Callable[[str, str], bool],
    ) -> None:
        """``serves(provider, model)`` tells whether a provider is known to have a model."""
        self._providers = providers
        self._exact = {alias.pattern: alias for alias in aliases}
        self._globs = sorted(
            (alias for alias in aliases if "*" in alias.pattern or "?" in alias.pattern),
            key=lambda alias: specificity(alias.pattern),
            reverse=True,
        )
        self._serves = serves

    def targets(self, model: str) -> list[Target]:
        """The targets of a model name, as listed; raises ModelNotFound when there are none."""
        alias = self._alias(model)
        if alias is not None:
            return [
                Target(name, to or model, weight, standby)
                for name, to, weight, standby in alias.targets
            ]
        provider, slash, rest = model.partition("/")
        if slash and provider in self._providers:
            return [Target(provider, rest)]
        known = self._serving(model)
        if known:
            return [Target(name, model) for name in known]
        if slash or not self._providers:
            served = ", ".join(self._providers) or "none is configured"
            raise ModelNotFound(
                f"No provider of this gateway serves model {model!r} (providers: {served})."
            )
        return [Target(name, model) for name in self._providers]

    def named(self, names: Sequence[str]) -> str:
        """Which of several names of one model to go by: its own, the first, where something leads
        on from that name in particular; else the first of the others that leads on, or the last.

        A pattern or a provider that takes another of its names too says nothing in particular.
        """
        own, *others = names
        ways = [self._way(name) for name in others]
        particular = self._way(own)
        if not others or (particular and particular not in ways):
            return own
        return next((name for name, way in zip(others, ways, strict=True) if way), others[-1])

    def _way(self, model: str) -> Alias | tuple[str, ...]:
        """What leads on from a name: an alias, the providers known to have it, or nothing."""
        alias = self._alias(model)
        if alias is not None:
            return alias
        provider, slash, _ = model.partition("/")
        return (model,) if slash and provider in self._providers else self._serving(model)

    def _alias(self, model: str) -> Alias | None:
        return self._exact.get(model) or next(
            (glob for glob in self._globs if matches(model, glob.pattern)), None
        )

    def _serving(self, model: str) -> tuple[str, ...]:
        return tuple(name for name in self._providers if self._serves(name, model))
