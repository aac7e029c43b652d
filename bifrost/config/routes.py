"""What the configuration says of where requests go, and what happens when a target fails."""

from __future__ import annotations

from typing import Annotated

from msgspec import Meta

from bifrost.config.fields import ModelName, Name, Seconds, Spec, Text, Weight


class Target(Spec, frozen=True, kw_only=True):
    """Where requests for a model name go."""

    provider: Annotated[Name, Meta(description="Name of a provider.")]
    model: Annotated[
        ModelName | None, Meta(description="The provider's model name; null keeps the asked one.")
    ] = None
    weight: Annotated[Weight, Meta(description="Share of the traffic among the targets.")] = 1.0
    standby: Annotated[bool, Meta(description="Only where the others fail or rest.")] = False


class RuleSpec(Spec, frozen=True, kw_only=True):
    """Sends requests elsewhere while a condition holds."""

    name: Annotated[Name, Meta(description="Unique in this list; logs show it.")]
    when: Annotated[
        Text,
        Meta(description="Condition in CEL, such as \"team == 'core' && budget_used > 0.8\"."),
    ]
    models: Annotated[
        tuple[ModelName, ...], Meta(description="Only for these model names; * and ? match.")
    ] = ("*",)
    targets: Annotated[tuple[Target, ...], Meta(description="Where those requests go.")]


class Hedging(Spec, frozen=True, kw_only=True):
    """When a request is sent to a second target beside the first."""

    after_ms: Annotated[
        int,
        Meta(ge=1, le=600_000, description="Milliseconds without an answer's head before that."),
    ]
    models: Annotated[
        tuple[ModelName, ...], Meta(description="Only for these model names; * and ? match.")
    ] = ("*",)
    max_share: Annotated[
        float, Meta(gt=0, le=1, description="The share of those requests that may be hedged.")
    ] = 0.05


class Routing(Spec, frozen=True, kw_only=True):
    """Which of several targets a request takes, and what happens when one fails."""

    max_attempts: Annotated[
        int, Meta(ge=1, le=10, description="Targets tried for one request; 1: no failover.")
    ] = 3
    first_byte_timeout_s: Annotated[
        Seconds | None,
        Meta(
            description="Seconds a streamed answer may take to begin while another target is left;"
            " null: as the provider's timeout_s."
        ),
    ] = None
    cool_down_s: Annotated[
        Seconds, Meta(description="Seconds a target that failed rests; doubled each time in a row.")
    ] = 5.0
    max_cool_down_s: Annotated[
        Seconds, Meta(description="The longest such rest; a provider may ask for more.")
    ] = 300.0
    hedge: Annotated[
        Hedging | None, Meta(description="Asks a second target where the first is slow.")
    ] = None
    rules: Annotated[
        tuple[RuleSpec, ...], Meta(description="The first that holds says where a request goes.")
    ] = ()
