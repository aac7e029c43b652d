"""Claude's hosts in the clouds, on the loopback: they refuse what the real ones refuse.

Each grants tokens at the same address where the real service's issuer does, and knows which hold.
"""

from __future__ import annotations

import base64
import json
import re
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials as Theirs

from bifrost.mock import MockOptions
from bifrost.mock.exchange import Request
from bifrost.mock.provider import Provider
from bifrost.sigv4 import Credentials
from bifrost.translate.event_stream import encode
from tests.issuer import Answer, Asked

MODEL = re.compile(
    r"/v1/projects/my-proj/locations/us-east5/publishers/(anthropic|google)/models/"
    r"([a-z0-9.@-]+):(\w+)"
)
INPUT, OUTPUT = 1_234, 321
USAGE = {"input_tokens": INPUT, "output_tokens": OUTPUT}
# Fields that Vertex takes of Anthropic's dialect, and what it calls Anthropic's betas.
FIELDS = {
    "anthropic_version", "max_tokens", "messages", "system", "stop_sequences", "stream", "tools",
    "tool_choice", "thinking", "metadata", "output_config", "context_management", "temperature",
}  # fmt: skip
BETAS = {
    "claude-code-20250219", "interleaved-thinking-2025-05-14", "context-management-2025-06-27",
    "per-turn-control-2026-07-01", "thinking-token-count-2026-05-13", "effort-2025-11-24",
    "tool-search-tool-2025-10-19", "web-search-2025-03-05",
}  # fmt: skip


def message(model: str, text: str = "Hello there") -> dict[str, Any]:
    return {
        "id": "msg_1", "type": "message", "role": "assistant", "model": model,
        "content": [{"type": "text", "text": text}], "stop_reason": "end_turn",
        "stop_sequence": None, "usage": USAGE,
    }  # fmt: skip


def stream(model: str) -> bytes:
    """The same as events."""
    begun = message(model) | {
        "content": [],
        "stop_reason": None,
        "usage": USAGE | {"output_tokens": 1},
    }
    events: list[dict[str, Any]] = [
        {"type": "message_start", "message": begun},
        {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}},
        {"type": "content_block_delta", "index": 0,
         "delta": {"type": "text_delta", "text": "Hello there"}},
        {"type": "content_block_stop", "index": 0},
        {"type": "message_delta", "delta": {"stop_reason": "end_turn", "stop_sequence": None},
         "usage": {"output_tokens": OUTPUT}},
        {"type": "message_stop"},
    ]  # fmt: skip
    lines = [f"event: {one['type']}\ndata: {json.dumps(one)}\n\n" for one in events]
    return "".join(lines).encode()


def answered(body: dict[str, Any], model: str) -> Answer:
    if body.get("stream"):
        return 200, stream(model), "text/event-stream"
    return 200, message(model)


def refusal(text: str, kind: str = "invalid_request_error", status: int = 400) -> Answer:
    return status, {"type": "error", "error": {"type": kind, "message": text}}


class Tokens:
    """Which access tokens hold."""

    def __init__(self) -> None:
        self.granted = 0
        self.holding: set[str] = set()
        self.ill = False

    def grant(self) -> Answer:
        if self.ill:
            return 400, {"error": "invalid_grant", "error_description": "Account not found"}
        self.granted += 1
        token = f"ya29.token-{self.granted}"
        self.holding.add(token)
        return 200, {"access_token": token, "expires_in": 3599, "token_type": "Bearer"}

    def known(self, asked: Asked) -> bool:
        kind, _, token = asked.headers.get("authorization", "").partition(" ")
        return kind == "Bearer" and token in self.holding


class Vertex(Tokens):
    """Vertex AI and Google's token endpoint."""

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/token":
            return self.grant()
        if not self.known(asked):
            text = "Request had invalid authentication credentials. Expected OAuth 2 access token"
            return 401, {"error": {"code": 401, "message": text, "status": "UNAUTHENTICATED"}}
        found = MODEL.fullmatch(asked.path)
        if asked.path.endswith("/locations/us-east5/endpoints/openapi/chat/completions"):
            return Foundry.chat(json.loads(asked.body))
        if found is None:
            return 404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>"
        publisher, model, verb = found.groups()
        body = json.loads(asked.body)
        if publisher == "google":
            return self.gemini(body, model, verb)
        if model == "claude-denied":
            text = "Permission 'aiplatform.endpoints.predict' denied on resource '//aiplatform."
            text += "googleapis.com/projects/my-proj/locations/us-east5/publishers/x' (or gone)."
            return 403, [{"error": {"code": 403, "message": text, "status": "PERMISSION_DENIED"}}]
        if (wrong := self.wrong(asked, body, model)) is not None:
            return refusal(wrong)
        if model == "count-tokens":
            return 200, {"input_tokens": 77}
        if (verb == "streamRawPredict") != bool(body.get("stream")):
            return refusal("stream does not fit the method")
        return answered(body, model)

    @staticmethod
    def wrong(asked: Asked, body: dict[str, Any], model: str) -> str | None:
        if body.get("anthropic_version") != "vertex-2023-10-16":
            return "anthropic_version: Input should be 'vertex-2023-10-16'"
        counts = model == "count-tokens"
        if counts and "claude" not in body.get("model", ""):
            return "model: Field required"
        for field in body.keys() - FIELDS - ({"model"} if counts else set()):
            return f"{field}: Extra inputs are not permitted"
        if "max_tokens" not in body and not counts:
            return "max_tokens: Field required"
        betas = asked.headers.get("anthropic-beta")
        for beta in betas.split(",") if betas is not None else ():
            if beta not in BETAS:
                return f"Unexpected value(s) `{beta}` for the `anthropic-beta` header."
        if '"scope"' in asked.body.decode():
            return "cache_control.scope: Extra inputs are not permitted"
        return None

    @staticmethod
    def gemini(body: dict[str, Any], model: str, verb: str) -> Answer:
        if verb == "countTokens":
            known = {"contents", "systemInstruction", "tools", "generationConfig"}
            if extra := sorted(body.keys() - known):
                return 400, {"error": {"code": 400, "message": f"Unknown name {extra[0]}"}}
            return 200, {"totalTokens": 79, "totalBillableCharacters": 300}
        assert verb in ("generateContent", "streamGenerateContent") and body["contents"]
        told = {
            "candidates": [{"content": {"role": "model", "parts": [{"text": "Hi from Gemini"}]},
                            "finishReason": "STOP"}],
            "usageMetadata": {"promptTokenCount": INPUT, "candidatesTokenCount": OUTPUT,
                              "totalTokenCount": INPUT + OUTPUT},
            "modelVersion": model,
        }  # fmt: skip
        if verb == "generateContent":
            return 200, told
        return 200, b"data: " + json.dumps(told).encode() + b"\r\n\r\n", "text/event-stream"


class Foundry(Tokens):
    """A resource of Azure with Claude and OpenAI's models, and Entra ID."""

    KEY = "azure-key"

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/tenant/oauth2/v2.0/token":
            assert asked.form["client_secret"] == "s3cret"
            return self.grant()
        claude = asked.path.startswith("/anthropic/v1/messages")
        shown = asked.headers.get("x-api-key" if claude else "api-key")
        if shown != self.KEY and not self.known(asked):
            text = "Access denied due to invalid subscription key or wrong API endpoint."
            return 401, {"error": {"code": "401", "message": text}}
        body = json.loads(asked.body)
        if asked.path == "/openai/v1/chat/completions":
            return self.chat(body)
        if asked.headers.get("anthropic-version") not in ("2023-06-01", "2026-10-21"):
            return refusal("anthropic-version: header is required")
        if asked.path == "/anthropic/v1/messages/count_tokens":
            return 200, {"input_tokens": 78}
        if asked.path != "/anthropic/v1/messages":
            return 404, {"error": {"code": "404", "message": "Resource not found"}}
        return answered(body, body["model"])

    @staticmethod
    def chat(body: dict[str, Any]) -> Answer:
        told = {
            "id": "chatcmpl-1", "object": "chat.completion", "model": body["model"],
            "choices": [{"index": 0, "finish_reason": "stop",
                         "message": {"role": "assistant", "content": "Hi from GPT"}}],
            "usage": {"prompt_tokens": INPUT, "completion_tokens": OUTPUT,
                      "total_tokens": INPUT + OUTPUT},
        }  # fmt: skip
        return 200, told


class Aws:
    """Takes signed requests, or a key of Bedrock's own."""

    KEY = "bedrock-api-key-1"
    SERVICE = ""
    SIGNED = ["host", "x-amz-date", "x-amz-security-token"]

    def __init__(self) -> None:
        self.credentials = Credentials("AKMANTLE", "secret/of+mantle", "session+token==")
        self.region = "us-east-1"

    def __call__(self, asked: Asked) -> Answer:
        given = asked.headers.get("authorization", "")
        if not self.keyed(asked) and not self._signed(asked, given):
            return 403, {"message": "The security token included in the request is invalid."}
        return self.serve(asked, json.loads(asked.body))

    def keyed(self, asked: Asked) -> bool:
        return asked.headers.get("authorization") == f"Bearer {self.KEY}"

    def serve(self, asked: Asked, body: dict[str, Any]) -> Answer:
        raise NotImplementedError

    def _signed(self, asked: Asked, given: str) -> bool:
        """Whether botocore would have signed it so, not long ago."""
        names = given.partition("SignedHeaders=")[2].partition(",")[0].split(";")
        if names != self.SIGNED:
            return False
        stamp = asked.headers["x-amz-date"]
        now = datetime.strptime(stamp, "%Y%m%dT%H%M%SZ").replace(tzinfo=UTC)
        request = AWSRequest(
            "POST", f"http://{asked.headers['host']}{asked.target}",
            {name: asked.headers[name] for name in names if name != "host"}, asked.body,
        )  # fmt: skip
        request.context["timestamp"] = stamp
        auth = SigV4Auth(Theirs(*self.credentials), self.SERVICE, self.region)
        text = auth.string_to_sign(request, auth.canonical_request(request))
        right = auth.signature(text, request)
        fresh = abs(now.timestamp() - time.time()) < 300
        token = asked.headers["x-amz-security-token"] == self.credentials.token
        scope = f"Credential={auth.scope(request)}"
        return fresh and token and scope in given and given.endswith(f"Signature={right}")


class Mantle(Aws):
    """Bedrock's endpoint with the makers' own APIs."""

    SERVICE = "bedrock-mantle"

    def serve(self, asked: Asked, body: dict[str, Any]) -> Answer:
        if asked.path == "/v1/chat/completions":
            return Foundry.chat(body)
        if asked.path != "/anthropic/v1/messages":
            return 404, {"message": "Not Found"}
        betas = asked.headers.get("anthropic-beta")
        for beta in betas.split(",") if betas is not None else ():
            if beta not in BETAS:
                return refusal("invalid beta flag")
        if not body["model"].startswith("anthropic.claude-"):
            return refusal("model: not found", "not_found_error", 404)
        return answered(body, body["model"])


class Runtime(Aws):
    """Bedrock's own endpoint where it speaks Anthropic's Messages; it counts no tokens."""

    SERVICE = "bedrock"

    def serve(self, asked: Asked, body: dict[str, Any]) -> Answer:
        if asked.path != "/anthropic/v1/messages":
            return 404, {"message": "Not Found"}
        if "anthropic-version" not in asked.headers:
            return refusal("anthropic-version: header is required")
        betas = asked.headers.get("anthropic-beta")
        for beta in betas.split(",") if betas is not None else ():
            if beta not in BETAS:
                return refusal("invalid beta flag")
        if "anthropic.claude-" not in body["model"]:
            return refusal("model: not found", "not_found_error", 404)
        return answered(body, body["model"])


def first_party(asked: Asked) -> Answer:
    """Claude's own service, whoever's door is in front of it."""
    if asked.headers.get("anthropic-version") not in ("2023-06-01", "2026-10-21"):
        return refusal("anthropic-version: header is required")
    body = json.loads(asked.body)
    if not body["model"].startswith("claude-"):
        return refusal(f"model: {body['model']}", "not_found_error", 404)
    path = asked.path[asked.path.rindex("/v1/messages") :]
    if path == "/v1/messages/count_tokens":
        return 200, {"input_tokens": 79}
    return answered(body, body["model"])


WORKSPACE = "wrkspc_01AbCdEf"


class ClaudeOnAws(Aws):
    """Claude Platform on AWS."""

    KEY = "aws-api-key-1"
    SERVICE = "aws-external-anthropic"
    SIGNED = ["anthropic-workspace-id", *Aws.SIGNED]

    def keyed(self, asked: Asked) -> bool:
        return asked.headers.get("x-api-key") == self.KEY

    def serve(self, asked: Asked, body: dict[str, Any]) -> Answer:
        if asked.headers.get("anthropic-workspace-id") != WORKSPACE:
            return refusal("anthropic-workspace-id: header is required")
        if not asked.path.startswith("/v1/messages"):
            return 404, {"message": "Not Found"}
        return first_party(asked)


class ClaudeOnGoogleCloud(Tokens):
    """Claude on Google Cloud, and Google's token endpoint."""

    BASE = f"/v1/projects/my-proj/locations/global/workspaces/{WORKSPACE}/invoke"

    def __call__(self, asked: Asked) -> Answer:
        if asked.path == "/token":
            return self.grant()
        if not self.known(asked):
            return refusal("Invalid bearer token", "authentication_error", 401)
        if not asked.path.startswith(f"{self.BASE}/v1/messages"):
            return 404, b"<!DOCTYPE html><title>Error 404 (Not Found)!!1</title>"
        return first_party(asked)


class Bedrock(Aws):
    """Bedrock's InvokeModel and, by the mock provider, Converse. ``cut``: its streams end in the
    middle of a frame. ``works``: where a shell is offered, it has a file read and tells what stands
    there. ``used``: what Converse counts, in Anthropic's names."""

    cut = False
    works = False
    used: dict[str, Any] | None = None

    SERVICE = "bedrock"
    BETAS = {
        "interleaved-thinking-2025-05-14", "context-management-2025-06-27",
        "mid-conversation-tool-changes-2026-07-01", "thinking-token-count-2026-05-13",
        "tool-search-tool-2025-10-19", "effort-2025-11-24",
    }  # fmt: skip

    def wrong(self, body: dict[str, Any]) -> str | None:
        if body.get("anthropic_version") != "bedrock-2023-05-31":
            return "anthropic_version: Field required"
        for field in body.keys() - (FIELDS - {"stream"}) - {"anthropic_beta"}:
            return f"{field}: Extra inputs are not permitted"
        known = set(body.get("anthropic_beta", ())) <= self.BETAS
        return None if known else "invalid beta flag"

    def count(self, model: str, body: dict[str, Any]) -> Answer:
        """CountTokens, which knows no inference profiles."""
        if not model.startswith("anthropic."):
            return 400, {"message": "The provided model doesn't support counting tokens."}
        invoked = json.loads(base64.b64decode(body["input"]["invokeModel"]["body"], validate=True))
        wrong = "max_tokens: Field required" if "max_tokens" not in invoked else self.wrong(invoked)
        return (400, {"message": wrong}) if wrong else (200, {"inputTokens": 80})

    def serve(self, asked: Asked, body: dict[str, Any]) -> Answer:
        found = re.fullmatch(r"/model/([\w.:%-]+)/count-tokens", asked.path)
        if found and "invokeModel" in body["input"]:
            return self.count(unquote(found[1]), body)
        if found or "/converse" in asked.path:
            return self._converse(asked)
        found = re.fullmatch(r"/model/([\w.:%-]+)/invoke(-with-response-stream)?", asked.path)
        if found is None or "text/event-stream" in asked.headers["accept"]:
            return 404, {"message": "Not Found"}
        model, streams = unquote(found[1]), bool(found[2])
        if "claude" not in model and not model.startswith("arn:aws:bedrock:"):
            return 400, {"message": "The provided model identifier is invalid."}
        if (wrong := self.wrong(body)) is not None:
            return 400, {"message": wrong}
        if not streams:
            return 200, message(model)
        if "claude-busy" in model:
            end = {":message-type": "exception", ":exception-type": "throttlingException"}
            told = encode(end, b'{"message":"Too many tokens, please wait."}')
            return 200, told, "application/vnd.amazon.eventstream"
        events = [line[6:] for line in stream(model).split(b"\n") if line[:5] == b"data:"]
        if self.works:
            block = self._work(body)
            events = [said_instead(event, block) for event in events]
        told = b"".join(chunk(event) for event in events)
        told = told[: len(told) // 2] if self.cut else told
        return 200, told, "application/vnd.amazon.eventstream"

    def _converse(self, asked: Asked) -> Answer:
        command = "cat bifrost_mock.txt"
        options = MockOptions(
            input_tokens=INPUT, output_tokens=OUTPUT, tool_command=command,
            script="tool" if self.works else None,
        )  # fmt: skip
        headers = {b"authorization": b"proven"}
        if self.used is not None:
            headers[b"x-mock-usage"] = json.dumps(self.used).encode()
        steered = self.used is not None
        target = asked.path.encode()
        reply = Provider(options).answer(
            Request(b"POST", target, headers, asked.body, steered=steered)
        )
        if reply.events is None:
            return reply.status, reply.body
        told = b"".join(reply.events)
        told = told[: len(told) // 2] if self.cut else told
        return reply.status, told, "application/vnd.amazon.eventstream"

    @staticmethod
    def _work(body: dict[str, Any]) -> dict[str, Any]:
        """The block that a worker says next."""
        last = next(one for one in reversed(body["messages"]) if one["role"] == "user")
        results = [one for one in last["content"] if one["type"] == "tool_result"]
        if results:
            return {"type": "text", "text": f"It says {results[0]['content']}"}
        assert "Bash" in {tool["name"] for tool in body["tools"]}
        asked = {"command": "cat bifrost_mock.txt", "description": "Read"}
        return {"type": "tool_use", "id": "toolu_1", "name": "Bash", "input": asked}


def said_instead(raw: bytes, block: dict[str, Any]) -> bytes:
    """An event of ``stream``, saying another block."""
    event = json.loads(raw)
    tool = block["type"] == "tool_use"
    if "content_block" in event:
        event["content_block"] = block | ({"input": {}} if tool else {"text": ""})
    elif event["type"] == "content_block_delta":
        event["delta"] = {"type": "text_delta", "text": block.get("text")}
        if tool:
            whole = json.dumps(block["input"])
            event["delta"] = {"type": "input_json_delta", "partial_json": whole}
    elif event["type"] == "message_delta" and tool:
        event["delta"]["stop_reason"] = "tool_use"
    return json.dumps(event).encode()


def chunk(event: bytes) -> bytes:
    """An event in Bedrock's frame; botocore's own tests of such frames are in test_event_stream."""
    told = json.loads(event)
    if told["type"] == "message_stop":
        told["amazon-bedrock-invocationMetrics"] = {"inputTokenCount": INPUT}
    inner = base64.b64encode(json.dumps(told).encode()).decode()
    headers: dict[str, Any] = {
        ":event-type": "chunk", ":content-type": "application/json", ":message-type": "event"
    }  # fmt: skip
    return encode(headers, json.dumps({"bytes": inner, "p": "abc"}).encode())
