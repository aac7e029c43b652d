"""What a user of the official SDK does, in words that every supported version understands.

A program: reads one JSON object per line (scenario, client, request), answers with one line, either
``{"value": ...}`` or ``{"error": ...}``. Imports nothing but the SDK, whichever is on the path.
"""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable
from typing import Any

import anthropic

SHELL = {
    "name": "bash",
    "description": "Runs a shell command.",
    "input_schema": {
        "type": "object",
        "properties": {"command": {"type": "string"}},
        "required": ["command"],
    },
}
BETA = ["context-management-2025-06-27", "interleaved-thinking-2025-05-14"]
SHOWN = ("retry-after", "x-should-retry", "x-bf-error", "content-type")


def dump(model: Any) -> Any:
    """A typed object of the SDK as JSON data."""
    return model.model_dump(mode="json", warnings=False)


def message(client: Any, request: dict[str, Any]) -> Any:
    """A whole answer, and the provider's request id that the SDK keeps with it."""
    answer = client.messages.create(**request)
    return {"message": dump(answer), "request": answer._request_id}


def events(client: Any, request: dict[str, Any]) -> Any:
    """The typed events of a stream."""
    return [dump(event) for event in client.messages.create(**request, stream=True)]


def stream(client: Any, request: dict[str, Any]) -> Any:
    """The stream helper: its events, its text and the message it adds up."""
    with client.messages.stream(**request) as opened:
        seen = [dump(event) for event in opened]
        return {
            "events": seen,
            "text": opened.get_final_text(),
            "final": dump(opened.get_final_message()),
            "request": opened.request_id,
        }


def _result(asked: Any, request: dict[str, Any], told: str) -> dict[str, Any]:
    """The next request of a conversation: the answer, and the result of its tool calls."""
    results = [
        {"type": "tool_result", "tool_use_id": block.id, "content": told}
        for block in asked.content
        if block.type == "tool_use"
    ]
    turns = [
        *request["messages"],
        {"role": "assistant", "content": [block.to_dict() for block in asked.content]},
        {"role": "user", "content": results},
    ]
    return {**request, "messages": turns}


def tools(client: Any, request: dict[str, Any]) -> Any:
    """A tool call, its result and the final answer."""
    request = {**request, "tools": [SHELL]}
    told = request.pop("told")
    asked = client.messages.create(**request)
    done = client.messages.create(**_result(asked, request, told))
    return [dump(asked), dump(done)]


def tools_stream(client: Any, request: dict[str, Any]) -> Any:
    """The same, streamed: the tool's input comes in pieces."""
    request = {**request, "tools": [SHELL]}
    told = request.pop("told")
    with client.messages.stream(**request) as opened:
        first = [dump(event) for event in opened]
        asked = opened.get_final_message()
    with client.messages.stream(**_result(asked, request, told)) as opened:
        second = [dump(event) for event in opened]
        done = opened.get_final_message()
    return [first, dump(asked), second, dump(done)]


def tools_beta(client: Any, request: dict[str, Any]) -> Any:
    """The same through ``beta.messages``, the first turn streamed, the second whole."""
    request = {**request, "tools": [SHELL], "betas": BETA}
    told = request.pop("told")
    with client.beta.messages.stream(**request) as opened:
        first = [dump(event) for event in opened]
        asked = opened.get_final_message()
    done = client.beta.messages.create(**_result(asked, request, told))
    return [first, dump(asked), dump(done)]


def beta_message(client: Any, request: dict[str, Any]) -> Any:
    """``beta.messages``: another path with a query, and beta headers."""
    return dump(client.beta.messages.create(**request, betas=BETA))


def beta_events(client: Any, request: dict[str, Any]) -> Any:
    """``beta.messages``, streamed."""
    created = client.beta.messages.create(**request, betas=BETA, stream=True)
    return [dump(event) for event in created]


def async_both(options: dict[str, Any], request: dict[str, Any]) -> Any:
    """The asynchronous client: a whole answer and a stream."""

    async def main() -> Any:
        async with anthropic.AsyncAnthropic(**options) as client:
            whole = await client.messages.create(**request)
            created = await client.messages.create(**request, stream=True)
            return [dump(whole), [dump(event) async for event in created]]

    return asyncio.run(main())


def raw(client: Any, request: dict[str, Any]) -> Any:
    """A whole answer with the headers it came with."""
    answer = client.messages.with_raw_response.create(**request)
    return {"message": dump(answer.parse()), "headers": dict(answer.headers)}


def count(client: Any, request: dict[str, Any]) -> Any:
    """A token count."""
    return dump(client.messages.count_tokens(**request))


def beta_count(client: Any, request: dict[str, Any]) -> Any:
    """A token count of ``beta.messages``."""
    return dump(client.beta.messages.count_tokens(**request, betas=BETA))


def models(client: Any, request: dict[str, Any]) -> Any:
    """All models, over as many pages as there are."""
    return [dump(model) for model in client.models.list(**request)]


def model(client: Any, request: dict[str, Any]) -> Any:
    """One model."""
    return dump(client.models.retrieve(**request))


def version(client: Any, request: dict[str, Any]) -> Any:
    """The version of the SDK that runs this program."""
    return anthropic.__version__


Scenario = Callable[[Any, dict[str, Any]], Any]
SCENARIOS: dict[str, Scenario] = {
    each.__name__: each
    for each in (
        message, events, stream, tools, tools_stream, tools_beta, beta_message, beta_events,
        raw, count, beta_count, models, model, version,
    )
}  # fmt: skip


def play(scenario: str, client: dict[str, Any], request: dict[str, Any]) -> dict[str, Any]:
    """What the scenario gives, or what it raises."""
    options = {"max_retries": 0, "timeout": 20.0, **client}
    try:
        if scenario == "async_both":
            return {"value": async_both(options, request)}
        with anthropic.Anthropic(**options) as opened:
            return {"value": SCENARIOS[scenario](opened, request)}
    except anthropic.APIStatusError as error:
        headers = error.response.headers
        return {
            "error": {
                "kinds": [kind.__name__ for kind in type(error).__mro__],
                "status": error.status_code,
                "body": error.body,
                "message": error.message,
                "request": error.request_id,
                "headers": {name: headers[name] for name in SHOWN if name in headers},
            }
        }
    except anthropic.APIError as error:
        return {"error": {"kinds": [type(error).__name__], "message": str(error)}}


def main() -> None:
    """Plays what comes in until there is no more."""
    for line in sys.stdin:
        sys.stdout.write(json.dumps(play(**json.loads(line))) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
