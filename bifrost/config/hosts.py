"""The types of providers: which APIs each has, where they are and what they need.

Addresses are those of the vendors' own documentation and SDKs (read 2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from bifrost.config.fields import Spec
from bifrost.patterns import matches

Api = Literal[
    "messages", "chat", "responses", "gemini", "vertex", "bedrock", "converse", "embeddings",
    "gemini_embeddings",
]  # fmt: skip
Kind = Literal[
    "anthropic", "anthropic_aws", "anthropic_compatible", "anthropic_google_cloud", "azure",
    "bedrock", "bedrock_mantle", "cerebras", "deepseek", "fireworks", "gemini", "groq", "minimax",
    "mistral", "mock", "moonshot", "ollama", "openai", "openai_compatible", "openrouter",
    "together", "vertex", "vllm", "xai", "zai",
]  # fmt: skip


class Quirks(Spec, frozen=True, kw_only=True):
    """How a host of OpenAI's dialects deviates from them; null: as its type does."""

    streams_only: Annotated[
        bool, Meta(description="It answers in streams only; other clients get theirs whole.")
    ] = False
    reasoning_field: Annotated[
        Literal["none", "reasoning", "reasoning_content"] | None,
        Meta(description="Where its chat API takes the reasoning of earlier turns back."),
    ] = None
    reasoning_due: Annotated[
        bool | None,
        Meta(description="It refuses earlier turns that come without their reasoning."),
    ] = None
    short_call_ids: Annotated[
        bool | None,
        Meta(description="Its chat API takes ids of calls only of nine letters or digits."),
    ] = None

    def over(self, usual: Quirks) -> Quirks:
        """The same, with what is left open as it is usual."""
        return Quirks(
            streams_only=self.streams_only or usual.streams_only,
            reasoning_field=self.reasoning_field or usual.reasoning_field,
            reasoning_due=_or(self.reasoning_due, usual.reasoning_due),
            short_call_ids=_or(self.short_call_ids, usual.short_call_ids),
        )


def _or(own: bool | None, usual: bool | None) -> bool | None:
    return usual if own is None else own


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One type of provider: the address of each API it has (None: the configuration must say it),
    the first being the usual one, and the header that carries its key.

    ``legacy_limit``: its chat API knows ``max_tokens`` only. ``splits_reasoning``: it counts
    reasoning beside ``completion_tokens``, not in them. ``quirks``: where it takes reasoning back
    (many others refuse a message with a field that they do not know), and so on.

    In a cloud: ``cloud`` are the keys of the configuration that it has beside the usual ones,
    ``needs`` those that must be there; words in braces in an address stand for them. ``below`` is
    what follows the address, ``prefixes`` what each API's paths begin with, ``headers`` what goes
    with every request. ``uncounted``: which APIs count no tokens, though others' do. ``families``:
    by pattern of a model's name, the first that fits, which of the APIs serve it.
    """

    apis: dict[Api, str | None]
    key: Literal["x-api-key", "x-goog-api-key", "bearer", "api-key"] = "bearer"
    needs_key: bool = True
    legacy_limit: bool = False
    splits_reasoning: bool = False
    quirks: Quirks = Quirks()
    cloud: tuple[str, ...] = ()
    needs: tuple[str, ...] = ()
    below: str = ""
    prefixes: dict[Api, str] = {}
    headers: dict[str, str] = {}
    uncounted: tuple[Api, ...] = ()
    families: tuple[tuple[str, tuple[Api, ...]], ...] = ()


def _openai(url: str, *more: Api) -> dict[Api, str | None]:
    """A host with OpenAI's Chat and embeddings, and more of its APIs, at one address."""
    return dict.fromkeys(("chat", *more, "embeddings"), url)


def _both(chat: str, messages: str) -> dict[Api, str | None]:
    """A host with both APIs: Anthropic clients reach it without translation."""
    return {"messages": messages, "chat": chat}


TABLE: dict[Kind, Row] = {
    "anthropic": Row(apis={"messages": "https://api.anthropic.com"}, key="x-api-key"),
    "anthropic_compatible": Row(apis={"messages": None}, key="x-api-key", needs_key=False),
    "mock": Row(apis={"messages": None}, key="x-api-key", needs_key=False),
    "openai": Row(apis=_openai("https://api.openai.com/v1", "responses")),
    "openai_compatible": Row(
        apis={"chat": None, "responses": None, "messages": None, "embeddings": None},
        needs_key=False,
        legacy_limit=True,
    ),
    "cerebras": Row(
        apis={"chat": "https://api.cerebras.ai/v1"}, quirks=Quirks(reasoning_field="reasoning")
    ),
    "deepseek": Row(
        apis=_both("https://api.deepseek.com", "https://api.deepseek.com/anthropic"),
        legacy_limit=True,
        quirks=Quirks(reasoning_field="reasoning_content", reasoning_due=True),
    ),
    "fireworks": Row(
        apis=_openai("https://api.fireworks.ai/inference/v1"),
        legacy_limit=True,
        quirks=Quirks(reasoning_field="reasoning_content"),
    ),
    "gemini": Row(
        apis=dict.fromkeys(
            ("gemini", "gemini_embeddings"), "https://generativelanguage.googleapis.com/v1beta"
        ),
        key="x-goog-api-key",
    ),
    "groq": Row(
        apis={"chat": "https://api.groq.com/openai/v1"}, quirks=Quirks(reasoning_field="none")
    ),
    "minimax": Row(
        apis=_both("https://api.minimax.io/v1", "https://api.minimax.io/anthropic"),
        legacy_limit=True,
    ),
    "mistral": Row(
        apis=_openai("https://api.mistral.ai/v1"),
        legacy_limit=True,
        quirks=Quirks(reasoning_field="none", short_call_ids=True),
    ),
    "moonshot": Row(
        apis=_both("https://api.moonshot.ai/v1", "https://api.moonshot.ai/anthropic"),
        legacy_limit=True,
        quirks=Quirks(reasoning_field="reasoning_content", reasoning_due=True),
    ),
    "ollama": Row(
        apis=_openai("http://127.0.0.1:11434/v1"),
        needs_key=False,
        legacy_limit=True,
        quirks=Quirks(reasoning_field="reasoning"),
    ),
    "openrouter": Row(
        apis=_openai("https://openrouter.ai/api/v1"),
        legacy_limit=True,
        quirks=Quirks(reasoning_field="reasoning"),
    ),
    "together": Row(apis=_openai("https://api.together.xyz/v1"), legacy_limit=True),
    "vllm": Row(
        apis={"chat": None, "embeddings": None},
        needs_key=False,
        legacy_limit=True,
        quirks=Quirks(reasoning_field="reasoning"),
    ),
    "xai": Row(apis={"chat": "https://api.x.ai/v1"}, splits_reasoning=True),
    "zai": Row(
        apis=_both("https://api.z.ai/api/paas/v4", "https://api.z.ai/api/anthropic"),
        legacy_limit=True,
        quirks=Quirks(reasoning_field="reasoning_content"),
    ),
}


_OPENAI: tuple[Api, ...] = ("chat", "responses")
_EMBEDDINGS: tuple[Api, ...] = ("embeddings",)
_EMBEDDING: tuple[Api, ...] = (*_EMBEDDINGS, "gemini_embeddings")  # of all makers
# A deployment may have any name; it is Claude's if it says so.
_CLAUDE_APART: tuple[tuple[str, tuple[Api, ...]], ...] = (
    ("*claude*", ("messages",)),
    ("*", (*_OPENAI, *_EMBEDDINGS)),
)
_CLOUDS: dict[Kind, Row] = {
    # Claude's own service behind the clouds' doors: first-party names, betas and prices.
    "anthropic_aws": Row(
        apis={"messages": "https://aws-external-anthropic.{region}.api.aws"},
        key="x-api-key",
        needs_key=False,
        cloud=("region", "workspace", "keys", "aws"),
        needs=("region", "workspace"),
        headers={"anthropic-workspace-id": "{workspace}"},
    ),
    "anthropic_google_cloud": Row(
        apis={"messages": "https://claude.googleapis.com/v1"},
        needs_key=False,
        cloud=("project", "region", "workspace", "credentials_file", "credentials_json"),
        needs=("project", "region", "workspace"),
        below="/projects/{project}/locations/{region}/workspaces/{workspace}/invoke",
    ),
    "azure": Row(
        apis=dict.fromkeys(
            (*_OPENAI, "messages", *_EMBEDDINGS), "https://{resource}.services.ai.azure.com"
        ),
        key="api-key",
        needs_key=False,
        cloud=("resource", "keys", "entra"),
        needs=("resource",),
        prefixes={
            "messages": "/anthropic",
            **dict.fromkeys((*_OPENAI, *_EMBEDDINGS), "/openai/v1"),
        },
        uncounted=("responses",),  # 404 (Microsoft Q&A 5889782)
        families=_CLAUDE_APART,
    ),
    "bedrock": Row(
        apis=dict.fromkeys(
            ("bedrock", "converse", "messages"), "https://bedrock-runtime.{region}.{aws}"
        ),
        needs_key=False,
        cloud=("region", "keys", "aws"),
        needs=("region",),
        prefixes={"messages": "/anthropic"},
        uncounted=("messages",),
        # An inference profile's ARN may stand for any model; it is Claude's or an error. Names
        # with a region before them are the price table's, not Bedrock's.
        families=(
            ("arn:aws*", ("bedrock",)),
            ("*/*", ()),
            ("*claude*", ("bedrock",)),
            ("*", ("converse",)),
        ),
    ),
    "bedrock_mantle": Row(
        apis=dict.fromkeys(("messages", *_OPENAI), "https://bedrock-mantle.{region}.api.aws"),
        needs_key=False,
        cloud=("region", "keys", "aws"),
        needs=("region",),
        prefixes={"messages": "/anthropic", "chat": "/v1", "responses": "/v1"},
        uncounted=("responses",),  # nothing is known of it
        families=_CLAUDE_APART,
    ),
    "vertex": Row(
        apis=dict.fromkeys(("vertex", "gemini", "chat"), "https://{endpoint}/v1"),
        needs_key=False,
        cloud=("project", "region", "credentials_file", "credentials_json"),
        needs=("project", "region"),
        below="/projects/{project}/locations/{region}",
        prefixes={
            "vertex": "/publishers/anthropic",
            "gemini": "/publishers/google",
            "chat": "/endpoints/openapi",
        },
        # Of other makers' models, those that are named after their publisher speak OpenAI's Chat.
        families=(
            ("*claude*", ("vertex",)),
            ("gemini*", ("gemini",)),
            ("*/*", ("chat",)),
            ("*", ()),
        ),
    ),
}
TABLE |= _CLOUDS


def vertex_endpoint(region: str) -> str:
    """The host of Vertex AI in a region, of its multi-regions us and eu, or of all (global)."""
    if region == "global":
        return "aiplatform.googleapis.com"
    if region in ("us", "eu"):
        return f"aiplatform.{region}.rep.googleapis.com"
    return f"{region}-aiplatform.googleapis.com"


def address(
    kind: Kind, api: Api | None, base_url: str | None, place: Mapping[str, str | None] | None = None
) -> tuple[Api, str | None]:
    """(the API, its address) of a provider of this type; no address where one must be given.

    ``place``: its region, project and so on. Raises ValueError, saying what the type has, when it
    has no such API.
    """
    row = TABLE[kind]
    spoken: Api = api if api is not None else next(iter(row.apis))
    if spoken not in row.apis:
        has = " and ".join(repr(one) for one in row.apis)
        raise ValueError(f"type {kind!r} has only {has}")
    known = {name: value for name, value in (place or {}).items() if value}
    if "region" in known:
        known["endpoint"] = vertex_endpoint(known["region"])
        china = known["region"].startswith("cn-")
        known["aws"] = "amazonaws.com.cn" if china else "amazonaws.com"
    try:
        url = base_url or (row.apis[spoken] or "").format(**known)
        return spoken, url.rstrip("/") + row.below.format(**known) if url else None
    except KeyError:  # a place is missing
        return spoken, None


def headers(kind: Kind, place: Mapping[str, str | None]) -> dict[str, str]:
    """The headers that go with every request to a provider that is there."""
    known = {name: value or "" for name, value in place.items()}
    return {name: value.format(**known) for name, value in TABLE[kind].headers.items()}


def beside(kind: Kind, api: Api | None) -> frozenset[Api]:
    """The APIs that a provider of this type has at the address of the one that is used.

    None but that one where the configuration chose it.
    """
    apis = TABLE[kind].apis
    usual = next(iter(apis))
    if api in _OPENAI or api == "gemini":  # the choice is by which of them models answer
        return frozenset({api, *_EMBEDDING}) & apis.keys()
    if api is not None:
        return frozenset({api})
    there = apis[usual]
    return frozenset({usual, *(one for one in apis if there is not None and apis[one] == there)})


def serving(kind: Kind, api: Api | None, model: str) -> frozenset[Api]:
    """Those of them that serve a model; none where the provider has it by no API of these.

    Where the configuration chose one, it is that.
    """
    apis = beside(kind, api)
    if api is None:
        for pattern, those in TABLE[kind].families:
            if matches(model.lower(), pattern):
                return apis & frozenset(those)
    return apis
