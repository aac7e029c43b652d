"""What the configuration file may say: one frozen struct per object of the file.

Each field's ``Meta`` holds what readers need beyond its type: ``secret`` values are never shown,
``path`` values are taken relative to the configuration file, ``money`` is a decimal in USD,
``literal`` values are never taken for an ``env.`` or ``file:`` reference, ``lines`` may hold line
breaks, ``says`` is what messages expect in place of the type.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from bifrost.config.clouds import Cloud
from bifrost.config.evidence import AuditLogs, Enterprise
from bifrost.config.fields import Amount as Amount
from bifrost.config.fields import FilePath as FilePath
from bifrost.config.fields import ModelName as ModelName
from bifrost.config.fields import Name as Name
from bifrost.config.fields import Seconds as Seconds
from bifrost.config.fields import Secret as Secret
from bifrost.config.fields import Spec as Spec
from bifrost.config.fields import Text as Text
from bifrost.config.fields import Weight as Weight
from bifrost.config.fields import or_reference
from bifrost.config.hosts import Api, Kind
from bifrost.config.hosts import Quirks as Quirks
from bifrost.config.routes import Hedging as Hedging
from bifrost.config.routes import Routing as Routing
from bifrost.config.routes import RuleSpec as RuleSpec
from bifrost.config.routes import Target as Target
from bifrost.config.values import DURATION as DURATION
from bifrost.config.values import MOST_USD as MOST_USD
from bifrost.config.values import WINDOW
from bifrost.config.values import instant_ns as instant_ns
from bifrost.config.values import nano_usd as nano_usd
from bifrost.config.values import signing_key as signing_key
from bifrost.config.values import span_ns as span_ns


class Server(Spec, frozen=True, kw_only=True):
    """Where and how the gateway listens."""

    host: Annotated[Name, Meta(description="Address to bind.")] = "127.0.0.1"
    port: Annotated[int, Meta(ge=0, le=65535, description="TCP port; 0 takes a free one.")] = 8080
    workers: Annotated[int, Meta(ge=1, le=256, description="Worker processes.")] = 1
    uds: Annotated[
        FilePath | None, Meta(description="Unix socket to listen on instead of host and port.")
    ] = None
    trusted_proxies: Annotated[
        tuple[Text, ...],
        Meta(
            extra={"says": "an address, a network such as '10.0.0.0/8', or 'unix'"},
            description="Proxies whose word about their client is taken; unix: our Unix socket.",
        ),
    ] = ()
    forwarded_header: Annotated[
        Literal["x-forwarded-for", "forwarded"],
        Meta(description="The header in which trusted proxies name their client."),
    ] = "x-forwarded-for"
    record_client_address: Annotated[
        bool, Meta(description="Events of requests name the client's address.")
    ] = True
    debug_headers: Annotated[bool, Meta(description="Add x-bf-overhead-us to every response.")] = (
        False
    )
    access_log: Annotated[bool, Meta(description="Log one line per request.")] = False
    log_level: Annotated[
        Literal["debug", "info", "warning", "error"], Meta(description="Least level logged.")
    ] = "info"
    max_body_bytes: Annotated[
        int, Meta(ge=1_024, le=2**31 - 1, description="Largest request body in bytes.")
    ] = 67_108_864
    shutdown_timeout_s: Annotated[
        float, Meta(ge=0, le=86_400, description="Seconds that open streams get at shutdown.")
    ] = 30.0
    ping_interval_s: Annotated[
        Seconds, Meta(description="Seconds of upstream silence after which a stream gets a ping.")
    ] = 20.0
    keep_alive_timeout_s: Annotated[
        Seconds, Meta(description="Seconds that an idle connection of a client is kept.")
    ] = 75.0
    receive_timeout_s: Annotated[
        Seconds,
        Meta(description="Seconds a client has to send a request's head, and between two pieces."),
    ] = 60.0


class ProviderKey(Spec, frozen=True, kw_only=True):
    """A credential of a provider. ``repr`` does not show it."""

    name: Annotated[Name, Meta(description="Name of the key in logs and reports.")]
    value: Annotated[Secret, Meta(description="The credential; best as env.NAME.")]
    weight: Annotated[Weight, Meta(description="Share of the traffic among the keys.")] = 1.0

    def __repr__(self) -> str:
        return f"ProviderKey(name={self.name!r}, value=<hidden>, weight={self.weight!r})"


class Network(Spec, frozen=True, kw_only=True):
    """How a provider is reached. ``repr`` does not show the proxy, which may hold a password."""

    base_url: Annotated[
        Text | None, Meta(description="http(s) address instead of the provider's own.")
    ] = None
    timeout_s: Annotated[Seconds, Meta(description="Seconds to an answer's head.")] = 600.0
    connect_timeout_s: Annotated[Seconds, Meta(description="Seconds to connect.")] = 10.0
    idle_timeout_s: Annotated[
        Seconds, Meta(description="Seconds without a byte before an answer is given up.")
    ] = 300.0
    max_retries: Annotated[int, Meta(ge=0, le=10, description="Further attempts to connect.")] = 2
    max_connections: Annotated[
        int, Meta(ge=1, le=100_000, description="Connections at once, per worker.")
    ] = 1000
    max_idle: Annotated[
        int, Meta(ge=0, le=100_000, description="Idle connections kept, per worker.")
    ] = 64
    keepalive_s: Annotated[
        float, Meta(ge=0, le=86_400, description="Seconds an idle connection is kept.")
    ] = 60.0
    proxy: Annotated[
        Secret | None, Meta(description="http(s) proxy to go through; may hold user:password@.")
    ] = None
    ca_file: Annotated[
        FilePath | None,
        Meta(description="PEM file of authorities trusted instead of the system's."),
    ] = None
    verify: Annotated[bool, Meta(description="Verify the provider's certificate.")] = True

    def __repr__(self) -> str:
        return f"Network(base_url={self.base_url!r}, …)"


class Provider(Cloud, frozen=True, kw_only=True):
    """A host that answers requests."""

    type: Annotated[
        Kind,
        Meta(description="Who it is, or whom it is like; mock is the built-in mock provider."),
    ]
    api: Annotated[
        Api | None,
        Meta(description="The one API to use, as messages, chat or responses; null: all it has."),
    ] = None
    keys: Annotated[
        tuple[ProviderKey, ...], Meta(description="Credentials; most types need at least one.")
    ] = ()
    network: Annotated[Network, Meta(description="How it is reached.")] = Network()
    quirks: Annotated[Quirks, Meta(description="How it deviates from its dialect.")] = Quirks()


class BudgetSpec(Spec, frozen=True, kw_only=True):
    """A cap on spending per window."""

    max_limit: Annotated[
        Amount,
        Meta(extra={"money": True}, description="USD, decimal in quotes: at most 9 decimals."),
    ]
    reset_duration: Annotated[
        Text,
        Meta(
            extra={"says": "a duration such as '1M' (a month)"},
            description="Length of the window: a number 1 to 1000 and one of m h d w M Q Y.",
            extra_json_schema=or_reference(DURATION.pattern),
        ),
    ]
    calendar_aligned: Annotated[
        bool, Meta(description="Windows follow the calendar, else they follow one another.")
    ] = False
    time_zone: Annotated[Name, Meta(description="IANA time zone of the windows.")] = "UTC"
    fiscal_start: Annotated[
        int, Meta(ge=1, le=12, description="Month in which aligned quarters and years begin.")
    ] = 1
    provider: Annotated[
        Name | None, Meta(description="Count only what goes to this provider; * and ? match.")
    ] = None
    overdraft: Annotated[
        Literal["none", "last_request"],
        Meta(description="none is the hard cap; last_request may pass the limit once."),
    ] = "none"
    tight: Annotated[
        Literal["wait,clamp", "wait", "clamp", "refuse"],
        Meta(description="What is tried before a request that does not fit is refused."),
    ] = "wait,clamp"

    @property
    def nano_usd(self) -> int:
        """``max_limit`` as int nano-USD."""
        return nano_usd(self.max_limit)


class RateLimitSpec(Spec, frozen=True, kw_only=True):
    """A cap on requests or tokens in any window, or on requests at the same time."""

    metric: Annotated[
        Literal["requests", "tokens", "input_tokens", "output_tokens", "concurrency"],
        Meta(description="What is counted."),
    ]
    max_limit: Annotated[int, Meta(ge=0, le=2**32 - 1, description="The most there may be.")]
    window: Annotated[
        Text | None,
        Meta(
            extra={"says": "a window such as '1m' (a minute)"},
            description="Length of the window: a number and one of s m h d; null is 1m.",
            extra_json_schema=or_reference(WINDOW.pattern),
        ),
    ] = None
    provider: Annotated[
        Name | None, Meta(description="Count only what goes to this provider; * and ? match.")
    ] = None
    model: Annotated[
        ModelName | None, Meta(description="Count only this model; * and ? match.")
    ] = None


class ProviderRule(Spec, frozen=True, kw_only=True):
    """Which models of which provider a key may use; a block wins over an allowance."""

    provider: Annotated[Name, Meta(description="Name of a provider; * is every one.")] = "*"
    allowed_models: Annotated[
        tuple[ModelName, ...], Meta(description="Model names or patterns with * and ?.")
    ] = ("*",)
    blocked_models: Annotated[
        tuple[ModelName, ...], Meta(description="Model names or patterns that are refused.")
    ] = ()
    weight: Annotated[Weight, Meta(description="Share of the traffic among providers.")] = 1.0


class Governed(Spec, frozen=True, kw_only=True):
    """What customers, teams, users and virtual keys have in common."""

    name: Annotated[Name, Meta(description="Unique among its kind; the identity on reload.")]
    budgets: Annotated[
        tuple[BudgetSpec, ...], Meta(description="Caps; all of them hold at once.")
    ] = ()
    rate_limits: Annotated[
        tuple[RateLimitSpec, ...], Meta(description="Limits; all of them hold at once.")
    ] = ()
    provider_configs: Annotated[
        tuple[ProviderRule, ...], Meta(description="What may be used; none narrows nothing.")
    ] = ()
    is_active: Annotated[bool, Meta(description="false refuses every request below it.")] = True


class CustomerSpec(Governed, frozen=True, kw_only=True):
    """The organisation that pays."""


class TeamSpec(Governed, frozen=True, kw_only=True):
    """A part of a customer, or standing alone."""

    customer: Annotated[Name | None, Meta(description="The customer it belongs to.")] = None


class UserSpec(Governed, frozen=True, kw_only=True):
    """A person or service, in at most one team or directly under a customer."""

    team: Annotated[Name | None, Meta(description="The team the user is in.")] = None
    customer: Annotated[
        Name | None, Meta(description="The customer, for a user without a team.")
    ] = None


class VirtualKeySpec(Governed, frozen=True, kw_only=True):
    """A credential of the gateway, owned by a user, a team, a customer or nobody.

    ``repr`` does not show its value.
    """

    value: Annotated[
        Secret | None, Meta(description="sk-bf- and 32 or more of A-Z a-z 0-9 _ -; null makes one.")
    ] = None
    user: Annotated[Name | None, Meta(description="Owner: a user.")] = None
    team: Annotated[Name | None, Meta(description="Owner: a team.")] = None
    customer: Annotated[Name | None, Meta(description="Owner: a customer.")] = None
    provider_configs: Annotated[
        tuple[ProviderRule, ...], Meta(description="What it may use; by default everything.")
    ] = (ProviderRule(),)
    allowed_fields: Annotated[
        tuple[Name, ...] | None, Meta(description="Governed request fields it may use.")
    ] = None
    expires_at: Annotated[
        Text | None, Meta(description="RFC 3339 time from which it is refused.")
    ] = None
    audit_content: Annotated[
        Literal["none", "hash", "full"] | None,
        Meta(description="What is recorded of its requests and answers; null: as audit_logs say."),
    ] = None

    @property
    def expires_ns(self) -> int | None:
        """``expires_at`` as int nanoseconds since the Unix epoch."""
        return None if self.expires_at is None else instant_ns(self.expires_at)

    def __repr__(self) -> str:
        shown: Any = {k: v for k, v in msgspec.structs.asdict(self).items() if k != "value"}
        return f"VirtualKeySpec({', '.join(f'{k}={v!r}' for k, v in shown.items())})"


class Governance(Spec, frozen=True, kw_only=True):
    """Who may spend how much: created or updated at start and on reload, by name."""

    customers: Annotated[tuple[CustomerSpec, ...], Meta(description="Organisations.")] = ()
    teams: Annotated[tuple[TeamSpec, ...], Meta(description="Teams.")] = ()
    users: Annotated[tuple[UserSpec, ...], Meta(description="People and services.")] = ()
    virtual_keys: Annotated[
        tuple[VirtualKeySpec, ...], Meta(description="Credentials of the gateway.")
    ] = ()


class Prices(Spec, frozen=True, kw_only=True):
    """What models cost, over the catalogue in the package."""

    file: Annotated[FilePath | None, Meta(description="A price file that overrides.")] = None
    unpriced: Annotated[
        Literal["refuse"], Meta(description="What happens to a model without a price.")
    ] = "refuse"


class Alerts(Spec, frozen=True, kw_only=True):
    """When somebody is told of spending."""

    budget_thresholds: Annotated[
        tuple[Annotated[int, Meta(ge=1, le=100)], ...],
        Meta(description="Percent of a budget at which an event is told, once per window."),
    ] = (50, 80, 95, 100)


class Webhook(Spec, frozen=True, kw_only=True):
    """Who is told of events by HTTP, in the form of Standard Webhooks.

    ``repr`` shows neither address nor secrets.
    """

    name: Annotated[Name, Meta(description="Unique; what is under way is kept under it.")]
    url: Annotated[
        Secret, Meta(description="http(s) address that takes the messages; not shown again.")
    ]
    secret: Annotated[
        Secret, Meta(description="whsec_ and 24 to 64 bytes in base64; best as env.NAME.")
    ]
    old_secrets: Annotated[
        tuple[Secret, ...],
        Meta(description="Secrets that sign too, while the receiver changes to the new one."),
    ] = ()
    events: Annotated[
        tuple[Literal["budget.threshold"], ...], Meta(description="What it is told.")
    ] = ("budget.threshold",)
    timeout_s: Annotated[
        float, Meta(gt=0, le=60, description="Seconds the receiver has to answer.")
    ] = 15.0
    proxy: Annotated[
        Secret | None, Meta(description="http(s) proxy to go through; may hold user:password@.")
    ] = None
    ca_file: Annotated[
        FilePath | None,
        Meta(description="PEM file of authorities trusted instead of the system's."),
    ] = None

    def __repr__(self) -> str:
        return f"Webhook(name={self.name!r}, …)"


class Settings(Spec, frozen=True, kw_only=True):
    """The configuration of a Bifrost gateway."""

    schema_: Annotated[
        str | None, Meta(extra={"literal": True}, description="For editors; not read.")
    ] = msgspec.field(name="$schema", default=None)
    server: Annotated[Server, Meta(description="Where and how it listens.")] = Server()
    providers: Annotated[dict[str, Provider], Meta(description="Providers by name.")] = {}
    models: Annotated[
        dict[str, tuple[Target, ...]],
        Meta(description="Targets by model name or pattern with * and ?."),
    ] = {}
    routing: Annotated[Routing, Meta(description="What happens when a target fails.")] = Routing()
    governance: Annotated[Governance, Meta(description="Who may spend how much.")] = Governance()
    prices: Annotated[Prices, Meta(description="What models cost.")] = Prices()
    alerts: Annotated[Alerts, Meta(description="When somebody is told.")] = Alerts()
    webhooks: Annotated[
        tuple[Webhook, ...], Meta(description="Who is told of events by HTTP.")
    ] = ()
    audit_logs: Annotated[
        AuditLogs | None, Meta(description="How the audit log is signed and kept.")
    ] = None
    enterprise: Annotated[Enterprise, Meta(description="May wrap audit_logs.")] = Enterprise()
    data_dir: Annotated[FilePath | None, Meta(description="Where the gateway keeps its state.")] = (
        None
    )
    help_url: Annotated[
        Text | None, Meta(description="Page shown to people whose budget is used up.")
    ] = None

    @property
    def evidence(self) -> AuditLogs:
        """How the audit log is signed and kept, wherever the file says it."""
        return self.audit_logs or self.enterprise.audit_logs or AuditLogs()
