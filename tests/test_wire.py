"""The request side of the wire against oracles made of json.loads and plain Python."""

from __future__ import annotations

import json
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bifrost._fast.wire import (
    Scan,
    WireError,
    rewrite,
    scan,
)

SAMPLES = sorted((Path(__file__).parent / "samples").glob("claude-*.json"))
FIELDS = [name for name in dir(Scan) if not name.startswith("_")]
GOVERNED = (
    "fallbacks fallback_credit_token billing_policy thread container mcp_servers"
    " speed service_tier inference_geo"
).split()
CAPTURED = {*GOVERNED, "model", "stream", "max_tokens", "tools", "thinking"}
quick = settings(max_examples=300, deadline=None, derandomize=True, database=None)


# The oracle: json.loads with every object as its pairs and every number as its digits.
class Pairs(list[tuple[str, Any]]):
    pass


class Integer(str):
    pass


class Refused(Exception):
    pass


def need(holds: object) -> None:
    if not holds:
        raise Refused


def parse(body: bytes) -> Pairs:
    def constant(word: str) -> None:
        raise Refused(word)

    def number(digits: str) -> float:
        need(len(digits) <= 1000)
        return 0.5

    def integer(digits: str) -> Integer:
        number(digits)
        return Integer(digits)

    try:
        tree = json.loads(
            body.decode(),
            object_pairs_hook=Pairs,
            parse_int=integer,
            parse_float=number,
            parse_constant=constant,
        )
    except (ValueError, RecursionError) as error:
        raise Refused from error
    if type(tree) is not Pairs:
        raise Refused
    return tree


def check(value: object, depth: int = 0) -> None:
    """Strings are whole and the nesting is bounded."""
    if isinstance(value, str):
        need(not any("\ud800" <= letter <= "\udfff" for letter in value))
    elif isinstance(value, list):
        need(depth < 512)
        for item in value:
            for part in item if isinstance(item, tuple) else (item,):
                check(part, depth + 1)


def pairs_in(value: object) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    stack = [value]
    while stack:
        top = stack.pop()
        if isinstance(top, Pairs):
            found += top
            stack += [item for _, item in top]
        elif isinstance(top, list):
            stack += top
    return found


def once(pairs: object, names: set[str]) -> dict[str, Any]:
    if type(pairs) is not Pairs:
        return {}
    keys = [key for key, _ in pairs if key in names]
    need(len(keys) == len(set(keys)))
    return dict(pairs)


def text(value: object) -> bool:
    return type(value) is str


def whole(value: object) -> int | None:
    if type(value) is not Integer:
        return None
    need(abs(int(value)) <= 2**53)
    return int(value)


def oracle(body: bytes) -> dict[str, Any]:
    """What scan must say of this body, spans aside; raises Refused where it must raise."""
    tree = parse(body)
    check(tree)
    top = once(tree, CAPTURED)
    need(text(top.get("model", "")) and top.get("stream") in (True, False, None))
    need(type(top.get("stream")) is not float)
    for name in ("service_tier", "speed", "inference_geo"):
        need(top.get(name) is None or text(top[name]))
    if "max_tokens" in top:
        need(whole(top["max_tokens"]) is not None and not top["max_tokens"].startswith("-"))
    tools = []
    if type(top.get("tools")) is list:
        tools = [once(tool, {"type", "model", "max_uses"}) for tool in top["tools"]]
    for tool in tools:
        whole(tool.get("max_uses"))
    typed = [tool for tool in tools if text(tool.get("type")) and tool["type"] != "custom"]
    fallbacks = top.get("fallbacks")
    listed = fallbacks if type(fallbacks) is list else [fallbacks]
    named = [once(item, {"model"}).get("model") if type(item) is Pairs else item for item in listed]
    nested = [(key, item) for key, item in pairs_in(tree) if text(item)]
    kinds = [item for key, item in nested if key == "type"]
    fields = {name for name in GOVERNED if top.get(name) not in (None, [])}
    other = any(text(tool.get("model")) for tool in tools)
    if other or any(tool["type"].startswith("advisor") for tool in typed):
        fields.add("advisor")
    return {
        "size": len(body),
        "model": top.get("model"),
        "stream": bool(top.get("stream")),
        "max_tokens": whole(top.get("max_tokens")),
        "service_tier": top.get("service_tier"),
        "speed": top.get("speed"),
        "inference_geo": top.get("inference_geo"),
        "fields": fields,
        "ttl_1h": any(key == "ttl" and item != "5m" for key, item in nested),
        "images": kinds.count("image"),
        "documents": kinds.count("document") + kinds.count("container_upload"),
        "remote": kinds.count("url") + kinds.count("file"),
        "tool_types": tuple(tool["type"] for tool in typed),
        "tool_max_uses": tuple(whole(tool.get("max_uses")) for tool in typed),
        "tool_models": tuple(tool["model"] for tool in tools if text(tool.get("model"))),
        "fallback_models": tuple(name for name in named if text(name)),
        "thinking_budget": whole(once(top.get("thinking"), {"budget_tokens"}).get("budget_tokens")),
    }


def agree(body: bytes) -> bool:
    """Asserts that scan and the oracle agree; says whether the body was accepted."""
    try:
        expected = oracle(body)
    except Refused:
        with pytest.raises(WireError, match=r"\.$"):
            scan(body)
        return False
    found = scan(body)
    assert {name: getattr(found, name) for name in expected} == expected
    for name, value in (("model", found.model), ("max_tokens", found.max_tokens)):
        span = body[getattr(found, f"{name}_start") : getattr(found, f"{name}_end")]
        assert json.loads(span) == value if value is not None else span == b""
    return True


# Bodies: request-like trees in which everything that scan looks at is frequent.
KEYS = [*sorted(CAPTURED), "type", "ttl", "max_uses", "budget_tokens", "messages", "advisor", "x"]
WORDS = "image document container_upload url file custom advisor_1 5m 1h fast default a é 漢字 😀"
STRINGS = [*WORDS.split(), "", '"', "\\", "\n\x00", "long " * 30, "m\x7fé" * 20]
NUMBERS = "0 -0 1 5 -7 1.5 1e3 0.0E-2 32000 9007199254740992 9007199254740993 -9007199254740993"
BARE = [*NUMBERS.split(), "9" * 30, "true", "false", "null", "null"]


class Writer:
    """Writes random JSON; ``random`` decides everything, so a seed is a body."""

    def __init__(self, random: Random) -> None:
        self.random = random

    def blank(self) -> str:
        return self.random.choice(["", "", "", "", " ", "\n\t", "\r\n"])

    def string(self, value: str) -> str:
        if self.random.random() < 0.7:
            return json.dumps(value, ensure_ascii=self.random.random() < 0.5)
        units = value.encode("utf-16-be")
        escaped = [f"\\u{units[i : i + 2].hex()}" for i in range(0, len(units), 2)]
        if any("\ud7ff" < letter for letter in value):
            return f'"{"".join(escaped)}"'
        plain = [json.dumps(letter)[1:-1].replace("/", "\\/") for letter in value]
        mixed = zip(escaped, plain, strict=True)
        return f'"{"".join(map(self.random.choice, mixed))}"'

    def object(self, keys: list[str], depth: int) -> str:
        names = self.random.sample(keys, self.random.randrange(min(len(keys), 9)))
        if names and self.random.random() < 0.03:
            names.append(self.random.choice(names))
        members = [
            f"{self.blank()}{self.string(name)}{self.blank()}:{self.value(depth, name)}"
            for name in names
        ]
        return f"{{{','.join(members) or self.blank()}}}"

    def value(self, depth: int, name: str = "") -> str:
        if name in ("model", "speed", "service_tier", "inference_geo", "type", "ttl"):
            kind = self.random.choice("s" * 30 + "b")
        elif name in ("max_tokens", "budget_tokens", "max_uses", "stream"):
            kind = "b"
        else:
            kind = self.random.choice("sbaaoo" if depth < 5 else "sb")
        if kind == "s":
            made = self.string(self.random.choice(STRINGS))
        elif kind == "b":
            likely = ["true", "null"] if name == "stream" else ["8", "64000"]
            made = self.random.choice(likely if self.random.random() < 0.95 else BARE)
        elif kind == "o":
            made = self.object(KEYS, depth + 1)
        else:
            items = [self.value(depth + 1) for _ in range(self.random.randrange(4))]
            made = f"[{','.join(items) or self.blank()}]"
        return self.blank() + made + self.blank()

    def body(self) -> bytes:
        return (self.blank() + self.object(KEYS, 0) + self.blank()).encode()

    def damaged(self, body: bytes) -> bytes:
        for _ in range(self.random.choice([1, 1, 2, 4])):
            at = self.random.randrange(len(body) + 1)
            cut = at + self.random.choice([0, 1, 1, 1, 2, len(body)])
            new = [b"", b'"', b"\\", b"{", b"]", b",", b"\\ud800", b"\xed\xa0\x80", b"NaN", b"\x00"]
            new += [b"1", b"-", b".", b"e", b"\xc3", bytes([self.random.randrange(256)])]
            body = body[:at] + self.random.choice(new) + body[cut:]
        return body


@quick
@given(st.randoms(use_true_random=False))
def test_scan_agrees_with_the_oracle(random: Random) -> None:
    agree(Writer(random).body())


@quick
@given(st.randoms(use_true_random=False))
def test_scan_agrees_with_the_oracle_on_damaged_bodies(random: Random) -> None:
    writer = Writer(random)
    agree(writer.damaged(writer.body()))


@quick
@given(st.binary(max_size=60))
def test_scan_refuses_noise(noise: bytes) -> None:
    agree(noise)
    agree(b'{"a":' + noise)
    agree(b'{"a":"' + noise + b'"}')


@pytest.mark.parametrize("path", SAMPLES, ids=lambda path: path.stem)
def test_real_requests_are_understood(path: Path) -> None:
    body = path.read_bytes()
    assert agree(body)
    found = scan(body)
    assert (found.model, found.max_tokens, found.stream) == ("claude-opus-5-5", 128000, True)
    assert found.fields == frozenset()
    for cut in [*range(0, 400), *range(len(body) - 200, len(body))]:
        with pytest.raises(WireError):
            scan(body[:cut])


def test_the_whole_of_a_request_is_captured() -> None:
    body = rb"""{"mod\u0065l": "a\u00e9\"\ud83d\ude00", "max_tokens": 7, "stream": null,
     "fallbacks": [{"model": "m1"}, "m2", {"model": 3}], "speed": "fast", "thread": {},
     "container": [], "tools": [{"name": "x", "input_schema": {"type": "object"}},
      {"type": "custom", "model": "m3"},
      {"type": "advisor_20260301", "model": "m4", "max_uses": 5}, {"type": "web_search_20250305"}],
     "system": [{"t\u0079pe": "im\u0061ge", "cache_control": {"tt\u006c": "1h"}}, {"type": "url"}],
     "thinking": {"budget_tokens": 1024}, "thread_": 1, "advisor": {"type": "document"}}"""
    found = scan(body)
    assert agree(body)
    assert (found.model, found.max_tokens, found.stream) == ('aé"😀', 7, False)
    assert found.fallback_models == ("m1", "m2")
    assert found.fields == {"fallbacks", "speed", "advisor"}
    assert found.tool_types == ("advisor_20260301", "web_search_20250305")
    assert (found.tool_max_uses, found.tool_models) == ((5, None), ("m3", "m4"))
    assert (found.images, found.documents, found.remote, found.ttl_1h) == (1, 1, 1, True)
    assert found.thinking_budget == 1024


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ('{"model":"a","mod\\u0065l":"b"}', "model is given twice, again at byte 13."),
        ('{"thread":null,"thread":{}}', "thread is given twice"),
        ('{"tools":[{"type":"a","type":"b"}]}', r"tools\[\]\.type is given twice"),
        ('{"max_tokens":1e3}', "max_tokens must be a whole number"),
        ('{"max_tokens":-0}', "max_tokens must be a whole number"),
        ('{"max_tokens":null}', "max_tokens must be a whole number"),
        ('{"model":null}', r"model must be a string \(byte 9\)"),
        ('{"speed":[]}', "speed must be a string or null"),
        ('{"a":"\\ud83d"}', "half of a surrogate pair stands alone at byte 6"),
        ('\ufeff{"a":1}', "starts with a byte order mark at byte 0"),
        ("[]", "an object was expected at byte 0"),
        ('{"a":' + "[" * 512 + "]" * 512 + "}", "nested more than 512 levels deep at byte 516"),
        ('{"a":' + "[" * 1_000_000, "nested more than 512 levels"),
        ('{"a":' + "1" * 1001 + "}", "more than 1000 characters"),
        ('{"tools":[' + '{"type":"t"},' * 4096 + '{"type":"t"}]}', "more than 4096 types"),
        ('{"a":1,}', "a key in double quotes was expected at byte 7"),
        ('{"a":NaN}', "a value was expected at byte 5"),
        ('{"a":1} x', "something follows the object at byte 8"),
    ],
)
def test_a_refusal_names_the_byte_or_the_field(body: str, sentence: str) -> None:
    with pytest.raises(WireError, match=sentence):
        scan(body.encode())


def test_the_deepest_and_the_longest_are_read() -> None:
    assert agree(b'{"a":' + b"[" * 511 + b"]" * 511 + b"}")
    assert agree(json.dumps({"x": "ab\n漢" * 300_000, "model": "m"}, ensure_ascii=False).encode())


def test_every_length_and_offset_of_a_string_is_checked() -> None:
    for size in range(70):
        assert agree(b'{"a":"' + b"x" * size + b'"}')
        for odd in (
            b"\x1f",
            b"\xff",
            b"\xc3\xa9",
            b"\\n",
            b"\\x",
            b"\xe2\x82",
            b"\xf0\x9f\x98\x80",
        ):
            agree(b'{"a":"' + b"x" * size + odd + b'"}')
            agree(b'{"a":"' + b"x" * size + odd + b"y" * 40 + b'"}')


@quick
@given(st.randoms(use_true_random=False), st.text(max_size=12), st.integers(0, 10**6))
def test_rewrite_changes_nothing_but_the_named_spans(random: Random, name: str, most: int) -> None:
    members = [f"{Writer(random).string('x')}:{Writer(random).value(3)}" for _ in range(3)]
    members += ['"model" : "old"', '"max_tokens":\t128000']
    random.shuffle(members)
    body = f"{{{','.join(members)}}}".encode()
    for model, limit in ((name, None), (None, most), (name, most)):
        made = rewrite(body, scan(body), model, limit)
        found = scan(made)
        assert found.model == (name if model is not None else "old")
        assert found.max_tokens == (most if limit is not None else 128000)
        if model is not None:
            made = made[: found.model_start] + b'"old"' + made[found.model_end :]
            found = scan(made)
        if limit is not None:
            made = made[: found.max_tokens_start] + b"128000" + made[found.max_tokens_end :]
        assert made == body


def test_rewrite_refuses_what_it_cannot_do() -> None:
    body = b'{"a":1}'
    assert rewrite(body, scan(body), None, None) is body
    with pytest.raises(WireError, match="no model"):
        rewrite(body, scan(body), "m", None)
    with pytest.raises(WireError, match="no max_tokens"):
        rewrite(body, scan(body), None, 5)
    with pytest.raises(ValueError, match="another body"):
        rewrite(body + b" ", scan(body), "m", None)


@pytest.mark.parametrize("found", ["\\n", "ü", "\u65e5", "\\ud83d\\ude00", "\x1f", "\\x", "\udc80"])
def test_what_matters_is_found_anywhere_in_a_long_string(found: str) -> None:
    """Whatever width of bytes is looked at at a time."""
    for before in range(150):
        for behind in (0, 1, 40, 100):
            text = "a" * before + found + "b" * behind
            raw = b'{"model":"%b","max_tokens":1}' % text.encode("utf-8", "surrogateescape")
            try:
                said = json.loads(raw.decode())["model"]
            except ValueError:
                with pytest.raises(WireError):
                    scan(raw)
            else:
                assert scan(raw).model == said
