"""The OpenAPI 3.1 document, made from the route table and the structs it names."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Any

import msgspec

from bifrost import __version__
from bifrost.admin.problems import CODES, TYPE, ProblemDocument
from bifrost.admin.table import OWN_KEY, PUBLIC, Ask, House, NoQuery, Operation, Reply

REFERENCE = "#/components/schemas/{name}"
MEANING = {
    304: "The client has the object in this state.",
    400: "The request is malformed, or a query parameter is wrong.",
    401: "A credential is missing or wrong.",
    403: "The credential may not do this.",
    404: "There is no such object.",
    405: "The path does not take this method.",
    409: "The change contradicts what is stored, or the Idempotency-Key was used otherwise.",
    412: "The object is not any more as If-Match says.",
    413: "The body is larger than 1 MiB.",
    415: "The body is not application/json.",
    422: "The body is JSON, but not what may be sent here; errors name every place.",
    429: "Too many wrong tokens came from this address.",
    500: "The gateway failed; its log says why.",
    503: "A store cannot be used now; nothing was changed.",
}
SCHEMES = {
    "adminToken": {"type": "http", "scheme": "bearer", "description": "The admin token."},
    "virtualKey": {
        "type": "apiKey",
        "in": "header",
        "name": "x-bf-vk",
        "description": "A virtual key; also as a bearer token, as clients of the gateway send it.",
    },
}
_PARAMETERS: dict[str, dict[str, Any]] = {
    "If-Match": {
        "description": "Do it only if the object's ETag is this one.",
        "schema": {"type": "string", "examples": ['"0123456789abcdef0123456789abcdef"']},
    },
    "If-None-Match": {
        "description": "Answer 304 if the object's ETag is this one.",
        "schema": {"type": "string"},
    },
    "Idempotency-Key": {
        "description": "Repeated within 24 hours with the same body, the first answer is repeated.",
        "schema": {"type": "string", "minLength": 1, "maxLength": 255},
    },
}
_HEADERS: dict[str, str] = {
    "ETag": "The state of the object, without what is spent.",
    "Location": "Where the new object is.",
    "Allow": "What the path takes.",
    "Retry-After": "Seconds to wait.",
    "WWW-Authenticate": "How to authenticate.",
    "X-Request-Id": "The request's id: the one that was sent, or a new one.",
}


class _Schemas:
    """The components of every struct that the table names."""

    def __init__(self, rows: Iterable[Operation]) -> None:
        kinds: list[Any] = [ProblemDocument]
        for row in rows:
            found = (row.query, row.body, row.answer)
            kinds += [kind for kind in found if kind not in (None, NoQuery, *kinds)]
        schemas, components = msgspec.json.schema_components(kinds, ref_template=REFERENCE)
        self._of = dict(zip(kinds, schemas, strict=True))
        self.components: dict[str, Any] = _plain(components)
        for row in rows:
            if row.body is not None and row.partial:
                whole = self.components[row.body.__name__]
                self.components[changes(row.body)] = _partial(whole, changes(row.body))

    def of(self, kind: Any) -> dict[str, Any]:
        """The schema of a type, by reference where it is a struct."""
        return dict(_plain(self._of[kind]))


def _partial(whole: dict[str, Any], title: str) -> dict[str, Any]:
    """The schema of changes: no member has to be there or gets a value by not being there."""
    properties = {
        name: {key: value for key, value in schema.items() if key != "default"}
        for name, schema in whole["properties"].items()
        if name != "value"  # changed by rotation only
    }
    kept = {key: value for key, value in whole.items() if key != "required"}
    return {**kept, "title": title, "properties": properties}


def changes(body: type[msgspec.Struct]) -> str:
    """The component's name for a body of which every member may be left out."""
    return body.__name__.removesuffix("Body") + "Changes"


def _plain(value: Any) -> Any:
    """Schemas as they hold here: no references to variables and files as in the file."""
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if not isinstance(value, dict):
        return value
    found = {key: _plain(item) for key, item in value.items()}
    pattern = found.get("pattern")
    if isinstance(pattern, str):
        found["pattern"] = pattern.partition("|^env\\.")[0]
    return found


def document(rows: Sequence[Operation]) -> dict[str, Any]:
    """The OpenAPI document of these operations."""
    schemas = _Schemas(rows)
    paths: dict[str, dict[str, Any]] = {}
    for row in rows:
        shown = paths.setdefault(row.path, {})[row.method.lower()] = _operation(row, schemas)
        if row.status == 201:
            shown["responses"]["201"]["links"] = _links(row, rows)
    used = schemas.components
    for query in {row.query.__name__ for row in rows}:
        used.pop(query, None)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "Bifrost admin API",
            "version": __version__,
            "description": "Money is decimal text in USD, times are RFC 3339. Errors are RFC 9457"
            " problem documents with a stable code.",
            "license": {"name": "Apache-2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "security": [{"adminToken": []}],
        "paths": paths,
        "components": {
            "schemas": dict(sorted(used.items())),
            "securitySchemes": SCHEMES,
            "responses": {
                f"Problem{status}": _problem(status) for status in MEANING if status >= 400
            },
        },
    }


def _operation(row: Operation, schemas: _Schemas) -> dict[str, Any]:
    shown: dict[str, Any] = {
        "operationId": row.name,
        "summary": row.summary,
        "tags": [_tag(row)],
        "x-permission": row.permission,
    }
    if row.permission == PUBLIC:
        shown["security"] = []
    elif row.permission == OWN_KEY:
        shown["security"] = [{"virtualKey": []}]
    parameters = [*_path_parameters(row), *_query_parameters(row, schemas), *_conditions(row)]
    if parameters:
        shown["parameters"] = parameters
    if row.body is not None:
        name = changes(row.body) if row.partial else row.body.__name__
        schema = {"$ref": REFERENCE.format(name=name)}
        shown["requestBody"] = {
            "required": True,
            "content": {"application/json": {"schema": schema}},
            "description": "Members that only answers have (id, created_at, current_usage, …) may"
            " be sent back and are ignored.",
        }
    shown["responses"] = _responses(row, schemas)
    return shown


def _tag(row: Operation) -> str:
    """What an operation is about."""
    return row.segments[2] if row.segments[1] == "governance" else row.segments[1]


def _links(row: Operation, rows: Sequence[Operation]) -> dict[str, Any]:
    """What can be done with a new object: the operations of its own path and below."""
    found = {}
    for other in rows:
        head, _, rest = other.path.partition("{")
        if head == f"{row.path}/":
            name = rest.partition("}")[0]
            given = {name: f"$response.body#/{name}"}
            found[other.name] = {"operationId": other.name, "parameters": given}
    return found


def _path_parameters(row: Operation) -> list[dict[str, Any]]:
    meaning = {
        "id": {"budgets": "Id.", "prices": "Id or pattern."}.get(_tag(row), "Id or name."),
        "name": "Name.",
        "digest": "The digest, or its first 8 digits or more.",
        "index": "Index of an entry.",
    }
    kinds = {"index": {"type": "integer", "minimum": 0}}
    return [
        {
            "name": part[1:-1],
            "in": "path",
            "required": True,
            "description": meaning[part[1:-1]],
            "schema": kinds.get(part[1:-1], {"type": "string", "minLength": 1}),
        }
        for part in row.segments
        if part[0] == "{"
    ]


def _query_parameters(row: Operation, schemas: _Schemas) -> list[dict[str, Any]]:
    if row.query is NoQuery:
        return []
    properties = schemas.components[row.query.__name__]["properties"]
    found = []
    for name, schema in properties.items():
        schema = _without_null(dict(schema))
        description = schema.pop("description", None)
        parameter = {"name": name, "in": "query", "schema": schema}
        if description:
            parameter["description"] = description
        found.append(parameter)
    return found


def _without_null(schema: dict[str, Any]) -> dict[str, Any]:
    """A parameter is given or not, never null."""
    options = schema.get("anyOf")
    if options:
        kept = [option for option in options if option != {"type": "null"}]
        if len(kept) == 1:
            schema = {**{k: v for k, v in schema.items() if k != "anyOf"}, **kept[0]}
    if isinstance(schema.get("enum"), list):
        schema["enum"] = [one for one in schema["enum"] if one is not None]
    if schema.get("default", 0) is None:
        del schema["default"]
    return schema


def _conditions(row: Operation) -> list[dict[str, Any]]:
    names = []
    if row.guarded:
        names.append("If-Match")
    if row.tagged and row.method == "GET":
        names.append("If-None-Match")
    if row.once:
        names.append("Idempotency-Key")
    return [{"name": name, "in": "header", **_PARAMETERS[name]} for name in names]


def _responses(row: Operation, schemas: _Schemas) -> dict[str, Any]:
    good: dict[str, Any] = {"description": "Done.", "headers": _headers("X-Request-Id")}
    if row.tagged:
        good["headers"] |= _headers("ETag")
    if row.status == 201:
        good["headers"] |= _headers("Location")
    if row.answer is not None:
        good["content"] = {row.media: {"schema": schemas.of(row.answer)}}
    found = {str(row.status): good}
    if row.tagged and row.method == "GET":
        found["304"] = {"description": MEANING[304], "headers": _headers("ETag")}
    for status in sorted(refused(row)):
        found[str(status)] = {"$ref": f"#/components/responses/Problem{status}"}
    return found


def refused(row: Operation) -> set[int]:
    """The statuses of 400 and above that an operation may answer."""
    found = {400, 405, 500, 503, *row.refuses}
    if row.permission != PUBLIC:
        found |= {401, 403}
    if row.permission not in (PUBLIC, OWN_KEY):
        found.add(429)
    if row.method in ("POST", "PUT"):
        found |= {413, 415}
    if row.body is not None:
        found.add(422)
    if row.once:
        found.add(409)
    return found


def _headers(*names: str) -> dict[str, Any]:
    return {name: {"description": _HEADERS[name], "schema": {"type": "string"}} for name in names}


def _problem(status: int) -> dict[str, Any]:
    more = {401: "WWW-Authenticate", 405: "Allow", 429: "Retry-After", 503: "Retry-After"}
    codes = ", ".join(CODES[status])
    shown: dict[str, Any] = {
        "description": f"{MEANING[status]} Codes: {codes}.",
        "headers": _headers("X-Request-Id", *([more[status]] if status in more else [])),
        "content": {TYPE: {"schema": {"$ref": REFERENCE.format(name="ProblemDocument")}}},
    }
    return shown


def operation(rows: Sequence[Operation]) -> Operation:
    """The row of the document itself, which needs no credential."""
    made: list[bytes] = []

    def serve(house: House, ask: Ask) -> Reply:
        if not made:
            made.append(msgspec.json.encode(document([*rows, own])))
        return Reply(raw=made[0])

    own = Operation(
        method="GET", path="/api/openapi.json", name="get_openapi",
        summary="This document.", permission=PUBLIC, handler=serve, answer=dict[str, Any],
    )  # fmt: skip
    return own
