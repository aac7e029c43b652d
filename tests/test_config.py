"""The configuration file: documented examples, every kind of error, secrets, and the schema."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import msgspec
import pytest

from bifrost.config import (
    Loaded,
    Settings,
    clouds,
    default_settings,
    evidence,
    exports,
    json_schema,
    load,
    parse,
)
from bifrost.config import settings as specs
from bifrost.config.settings import instant_ns
from bifrost.errors import ConfigError

DOCS = Path(__file__).parent.parent / "docs" / "configuration.md"
SECRET = "sk-ant-api03-very-secret-0123456789"
KEY_VALUE = "sk-bf-" + "a1_-" * 8


@pytest.fixture(autouse=True)
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ANTHROPIC_API_KEY", SECRET)
    monkeypatch.delenv("NOT_SET", raising=False)


def block(form: str) -> str:
    found = re.search(rf"```{form}\n(.*?)```", DOCS.read_text("utf-8"), re.S)
    assert found
    return found[1]


def load_text(folder: Path, text: str, name: str = "bifrost.json") -> Loaded:
    (folder / name).write_text(text, "utf-8")
    return load(folder / name)


def read(document: object, base: Path = Path("/nowhere")) -> Settings:
    return parse(document, where="bifrost.json", base=base)


def problems(document: object, base: Path = Path("/nowhere")) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        read(document, base)
    head, *lines = str(caught.value).splitlines()
    count = len(lines)
    assert head == f"bifrost.json cannot be used; {count} problem{'s' if count > 1 else ''}:"
    return lines


def anthropic(**network: object) -> dict[str, Any]:
    keys = [{"name": "main", "value": "env.ANTHROPIC_API_KEY"}]
    return {"providers": {"a": {"type": "anthropic", "keys": keys, "network": network}}}


def budgeted(**budget: object) -> dict[str, Any]:
    whole = {"max_limit": "75", "reset_duration": "1M", **budget}
    return {"governance": {"customers": [{"name": "acme", "budgets": [whole]}]}}


@pytest.mark.parametrize("form", ["toml", "yaml"])
def test_the_documented_examples_say_the_same(form: str, tmp_path: Path) -> None:
    first = load_text(tmp_path, block("json"))
    other = load_text(tmp_path, block(form), f"bifrost.{form}")
    assert other.settings == first.settings
    assert other.digest == first.digest
    assert first.warnings == ()


def test_the_documented_example_means_what_it_says(tmp_path: Path) -> None:
    settings = load_text(tmp_path, block("json")).settings
    assert settings.server.workers == 2
    assert settings.providers["anthropic"].keys[0].value == SECRET
    assert settings.models["fast"][0].model == "claude-haiku-4-5"
    team = settings.governance.teams[0]
    assert (team.customer, team.budgets[0].nano_usd) == ("acme", 500 * 10**9)
    key = settings.governance.virtual_keys[0]
    assert key.expires_ns == instant_ns("2099-12-31T23:59:59Z")
    assert settings.prices.file == str(tmp_path / "prices.local.json")
    assert settings.schema_ == "./schema.json"


def test_the_documented_errors_are_the_real_ones() -> None:
    document = {
        "server": {"port": "abc"},
        "providers": {
            "anthropic": {"type": "anthropic", "keys": [{"name": "main", "value": "env.NOT_SET"}]}
        },
        "governance": {
            "virtual_keys": [
                {"name": "k", "usr": "a", "budgets": [{"max_limit": 75.5, "reset_duration": "1M"}]}
            ],
            "teams": [{"name": "core"}],
            "users": [{"name": "alice", "team": "cor"}],
        },
    }
    with pytest.raises(ConfigError) as caught:
        read(document)
    assert str(caught.value).replace("NOT_SET", "MY_KEY") == block("text").rstrip("\n")


SECTIONS: dict[str, type[msgspec.Struct]] = {
    "Top level": specs.Settings,
    "`server`": specs.Server,
    "`providers.<name>`": specs.Provider,
    "`providers.<name>.keys[]`": specs.ProviderKey,
    "`providers.<name>.network`": specs.Network,
    "`providers.<name>.quirks`": specs.Quirks,
    "`providers.<name>.entra`": clouds.Entra,
    "`providers.<name>.aws`": clouds.Aws,
    "`models.<pattern>[]`": specs.Target,
    "`routing`": specs.Routing,
    "`routing.hedge`": specs.Hedging,
    "`routing.rules[]`": specs.RuleSpec,
    "`governance`": specs.Governance,
    "`governance.customers[]`": specs.CustomerSpec,
    "`governance.teams[]`": specs.TeamSpec,
    "`governance.users[]`": specs.UserSpec,
    "`governance.virtual_keys[]`": specs.VirtualKeySpec,
    "`provider_configs[]`": specs.ProviderRule,
    "`budgets[]`": specs.BudgetSpec,
    "`rate_limits[]`": specs.RateLimitSpec,
    "`prices`": specs.Prices,
    "`alerts`": specs.Alerts,
    "`webhooks[]`": specs.Webhook,
    "`audit_logs`": evidence.AuditLogs,
    "`audit_logs.retention`": evidence.Retention,
    "`audit_logs.retention.archive`": evidence.Archive,
    "`audit_logs.retention.archive.s3`": evidence.ArchiveBucket,
    "`audit_logs.immutability`": evidence.Immutability,
    "`enterprise`": evidence.Enterprise,
    "`audit_logs.exports[]`": exports.Export,
    "Exports by HTTP": exports.HttpExport,
    **{f"Exports of type `{kind}`": sink for kind, sink in exports.KINDS.items()},
}


@pytest.mark.parametrize("title", SECTIONS)
def test_every_key_is_documented_with_its_default(title: str) -> None:
    section = DOCS.read_text("utf-8").split(f"\n### {title}\n")[1].split("\n#")[0]
    documented = dict(re.findall(r"^\| `(.+?)` \| (?:`(.+?)`|–) \|", section, re.M))
    real = {}
    above = {
        (field.name, field.default)
        for base in SECTIONS[title].__mro__[1:]
        if base in (exports.Export, exports.HttpExport)
        for field in msgspec.structs.fields(base)
    }
    for field in msgspec.structs.fields(SECTIONS[title]):
        default = field.default
        if (field.name, default) in above:
            continue
        if default is msgspec.NODEFAULT and field.default_factory is not msgspec.NODEFAULT:
            default = field.default_factory()
        if default is msgspec.NODEFAULT:
            real[field.encode_name] = ""
        elif isinstance(default, msgspec.Struct):
            assert default == type(default)()
            real[field.encode_name] = "{}"
        elif default == (specs.ProviderRule(),):
            real[field.encode_name] = "[{}]"
        else:
            real[field.encode_name] = json.dumps(default)
    assert documented == real


def test_an_empty_file_is_valid(tmp_path: Path) -> None:
    for name, text in (("a.json", "{}"), ("a.toml", ""), ("a.yaml", ""), ("a.yml", "# x\n")):
        loaded = load_text(tmp_path, text, name)
        assert loaded.settings == Settings()
        assert loaded.warnings == ("providers: none is configured; the gateway makes its own",)
    assert load_text(tmp_path, "\ufeff{}").settings == Settings()


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.json", '{"server":\n {"port" 1}}', "not valid JSON at line 2, column 10: expecting"),
        ("a.json", "", "not valid JSON at line 1, column 1: expecting value"),
        ("a.json", '{"server": {"ping_interval_s": NaN}}', "NaN is not a number"),
        ("a.json", '{"a": ' + "9" * 5000 + "}", "a.json: "),
        ("a.json", "[" * 100_000, "nested too deeply"),
        ("a.conf", "port = 1", "other forms need a name ending in .toml, .yaml or .yml"),
        ("a.toml", "a = 1\nb = [", "not valid TOML: "),
        ("a.toml", "a = 1\na = 2", "not valid TOML: "),
        ("a.yaml", "a: 1\nb: [", "not valid YAML at line 2, column"),
        ("a.yaml", "server:\n  port: 1\n  port: 2", "line 3, column 3: a key is given more than"),
        ("a.yaml", "a: !!python/object:os.system x", "not valid YAML at line 1, column 4"),
        ("a.yaml", "a: !!int x", "a value does not fit its tag"),
        ("a.yaml", "a: \x07", "a character that YAML forbids"),
        ("a.yaml", "a: 1\n---\nb: 2", "not valid YAML at line 2"),
        ("a.yaml", "[" * 3000, "nested too deeply"),
    ],
)
def test_syntax_errors_name_file_and_position(
    name: str, text: str, said: str, tmp_path: Path
) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, text, name)
    assert str(caught.value).startswith(str(tmp_path / name)) and said in str(caught.value)
    assert caught.value.__cause__ is None


def test_unreadable_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be read: No such file"):
        load(tmp_path / "missing.json")
    with pytest.raises(ConfigError, match="cannot be read: Is a directory"):
        load(tmp_path)
    (tmp_path / "a.json").write_bytes(b'{"a": "\xff"}')
    with pytest.raises(ConfigError, match=r"not UTF-8 text \(byte 7\)"):
        load(tmp_path / "a.json")


def test_syntax_errors_do_not_quote_the_file(tmp_path: Path) -> None:
    texts = {
        "a.yaml": f"value: *{SECRET}",
        "b.yaml": f"value: !{SECRET} x",
        "c.toml": f"value = {SECRET}",
        "d.json": f'{{"value": {SECRET}}}',
        "e.yaml": f"value: '{SECRET}\n",
    }
    for name, text in texts.items():
        with pytest.raises(ConfigError) as caught:
            load_text(tmp_path, text, name)
        assert "secret" not in str(caught.value)


def test_a_json_key_given_twice(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        load_text(tmp_path, '{"server": {"port": 1, "port": 2}, "models": {"a": [], "a": []}}')
    assert "server.port: given more than once" in str(caught.value)
    assert "models.a: given more than once" in str(caught.value)


def test_yaml_merges_and_plain_dates(tmp_path: Path) -> None:
    text = """
governance:
  users:
    - &first {name: a, is_active: false}
    - {<<: *first, name: b}
  virtual_keys:
    - {name: k, expires_at: 2099-01-01 00:00:00+02:00}
"""
    governance = load_text(tmp_path, text, "a.yaml").settings.governance
    assert [(user.name, user.is_active) for user in governance.users] == [
        ("a", False),
        ("b", False),
    ]
    assert governance.virtual_keys[0].expires_ns == instant_ns("2098-12-31T22:00:00Z")


def test_yaml_that_contains_itself_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"server\.port: expected an integer"):
        load_text(tmp_path, "server: {port: &a [*a]}", "a.yaml")


def test_settings_are_what_msgspec_would_accept(tmp_path: Path) -> None:
    settings = load_text(tmp_path, block("json")).settings
    assert msgspec.convert(msgspec.to_builtins(settings), Settings) == settings
    assert msgspec.json.decode(msgspec.json.encode(settings), type=Settings) == settings


def test_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LEVEL", "debug")
    monkeypatch.setenv("LIMIT", "12.50")
    (tmp_path / "key.txt").write_text(f"{SECRET}\r\n\n")
    document = {
        "server": {"log_level": "env.LEVEL", "host": f"file:{tmp_path / 'host'}"},
        "providers": {"a": {"type": "anthropic", "keys": [{"name": "m", "value": "file:key.txt"}]}},
        **budgeted(max_limit="env.LIMIT"),
    }
    (tmp_path / "host").write_text("::1")
    settings = read(document, tmp_path)
    assert settings.server.log_level == "debug" and settings.server.host == "::1"
    assert settings.providers["a"].keys[0].value == SECRET
    assert settings.governance.customers[0].budgets[0].nano_usd == 12_500_000_000


def test_missing_references(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EMPTY", "")
    (tmp_path / "empty").write_text("\n")
    (tmp_path / "large").write_bytes(b"x" * 70_000)
    (tmp_path / "binary").write_bytes(b"\xff\xfe")
    values = {
        "env.NOT_SET": "the environment variable NOT_SET is not set",
        "env.EMPTY": "the environment variable EMPTY is empty",
        "env.my-key": "expected the name of an environment variable after 'env.'",
        "file:none": "the file 'none' does not exist",
        "file:": "the file '' is not a file",
        "file:.": "the file '.' is not a file",
        "file:empty": "the file 'empty' is empty",
        "file:large": "the file 'large' is larger than 65536 bytes",
        "file:binary": "the file 'binary' is not text",
        "file:\0": "the file '\\x00' does not exist",
    }
    keys = [{"name": str(n), "value": value} for n, value in enumerate(values)]
    document = {"providers": {"a": {"type": "anthropic", "keys": keys}}}
    assert problems(document, tmp_path) == [
        f"providers.a.keys[{n}].value: {said}" for n, said in enumerate(values.values())
    ]


def test_secrets_never_appear(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    spaced = f"{SECRET} x"
    monkeypatch.setenv("BAD_KEY", spaced)
    document = {
        "server": {"log_level": "env.BAD_KEY", "port": SECRET},
        "providers": {
            "a": {
                "type": "anthropic",
                "keys": [{"name": "m", "value": "env.BAD_KEY", "weight": SECRET}, SECRET],
                "network": {
                    "base_url": f"https://user:{SECRET}@host",
                    "proxy": f"socks5://user:{SECRET}@host",
                },
            },
            "b": {"type": "anthropic", "keys": SECRET},
        },
        "governance": {
            "users": [{"name": "u", "team": "env.BAD_KEY"}],
            "virtual_keys": [
                {"name": "a", "value": f"sk-bf-{SECRET}!", "expires_at": "env.BAD_KEY"},
                {"name": "b", "value": KEY_VALUE},
                {"name": "c", "value": KEY_VALUE},
            ],
        },
        "help_url": "env.BAD_KEY",
    }
    lines = problems(document, tmp_path)
    assert len(lines) == 13
    text = "\n".join(lines)
    assert "secret" not in text and KEY_VALUE not in text
    assert "no team named 'env.BAD_KEY'" in text


def test_secrets_are_not_in_reprs_and_not_in_the_digest(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    document = anthropic(proxy=f"http://u:{SECRET}@proxy:3128")
    document["governance"] = {"virtual_keys": [{"name": "k", "value": KEY_VALUE}]}
    text = json.dumps(document)
    first = load_text(tmp_path, text)
    assert "secret" not in repr(first.settings) and KEY_VALUE not in repr(first.settings)
    monkeypatch.setenv("ANTHROPIC_API_KEY", "another")
    second = load_text(tmp_path, text.replace(KEY_VALUE, KEY_VALUE[::-1].join(["sk-bf-", ""])))
    assert first.settings != second.settings and first.digest == second.digest
    third = load_text(tmp_path, text.replace('"main"', '"other"'))
    assert re.fullmatch("[0-9a-f]{64}", first.digest) and third.digest != first.digest


def test_the_digest_does_not_depend_on_form_or_order(tmp_path: Path) -> None:
    target = [{"provider": "mock"}]
    one = load_text(tmp_path, json.dumps({"models": {"a": target, "b": target}}))
    text = "models:\n  b: [{provider: mock}]\n  a: [{provider: mock, weight: 1}]"
    two = load_text(tmp_path, text, "x.yaml")
    assert one.digest == two.digest


def test_without_a_file(monkeypatch: pytest.MonkeyPatch) -> None:
    assert default_settings().providers["anthropic"].keys[0].value == SECRET
    monkeypatch.delenv("ANTHROPIC_API_KEY")
    assert default_settings() == Settings(providers={"mock": specs.Provider(type="mock")})


def test_the_schema_describes_every_key() -> None:
    schema = json_schema()
    assert json.loads(json.dumps(schema)) == schema and "$id" not in schema
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    for node in (schema, *schema["$defs"].values()):
        assert node["title"] and node["description"] and node["additionalProperties"] is False
        assert all("description" in member for member in node["properties"].values())
    assert set(schema["$defs"]) == {kind.__name__ for kind in SECTIONS.values()} - {
        "Settings", "Export", "HttpExport",
    }  # fmt: skip
    json_schema()["properties"].clear()
    assert json_schema() == schema


def fits(value: object, node: dict[str, Any], root: dict[str, Any]) -> bool:
    """A validator for the few keywords the schema uses."""
    if "$ref" in node:
        return fits(value, root["$defs"][node["$ref"].rpartition("/")[2]], root)
    if "anyOf" in node:
        return any(fits(value, option, root) for option in node["anyOf"])
    if "enum" in node or "const" in node:
        return value in node.get("enum", [node.get("const")])
    types = {"object": dict, "array": list, "string": str, "boolean": bool, "integer": int}
    types |= {"null": type(None), "number": (int, float)}  # type: ignore[dict-item]
    if not isinstance(value, types[node["type"]]):
        return False
    if isinstance(value, dict):
        members = node.get("properties", {})
        rest = node.get("additionalProperties", {})
        return set(node.get("required", ())) <= set(value) and all(
            fits(item, members[key], root)
            if key in members
            else rest is not False and fits(item, rest, root)
            for key, item in value.items()
        )
    if isinstance(value, list):
        return all(fits(item, node["items"], root) for item in value)
    return "pattern" not in node or bool(re.search(node["pattern"], str(value)))


def test_the_documented_example_fits_the_schema() -> None:
    schema = json_schema()
    example = json.loads(block("json"))
    assert fits(example, schema, schema)
    assert fits({"audit_logs": {"enabled": False}}, schema, schema)
    assert fits({"enterprise": {"audit_logs": {"enabled": True}}}, schema, schema)
    assert not fits({"audit_logs": {"retention": {"duration": "a year"}}}, schema, schema)
    assert not fits({**example, "servr": {}}, schema, schema)
    assert fits(budgeted(max_limit=75, reset_duration="env.WINDOW"), schema, schema)
    assert not fits(budgeted(max_limit="x"), schema, schema)
    assert not fits(budgeted(max_limit=75.5), schema, schema)
    assert not fits(budgeted(reset_duration="1x"), schema, schema)
