"""A Gemini host on the loopback that refuses what Google refuses, and answers as it is told to."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

SECRET = "AIza-upstream-secret-0123456789"
_PATH = re.compile(r"/v1beta/models/([\w.:-]+):(generateContent|streamGenerateContent\?alt=sse)")
_FIELDS = {
    "contents", "systemInstruction", "tools", "toolConfig", "generationConfig", "safetySettings",
    "serviceTier", "labels",
}  # fmt: skip
_CONFIG = {
    "maxOutputTokens", "temperature", "topP", "topK", "stopSequences", "candidateCount",
    "responseMimeType", "responseJsonSchema", "responseSchema", "thinkingConfig", "seed",
    "responseModalities",
}  # fmt: skip


def refused(path: str, headers: dict[str, str], asked: Any) -> tuple[int, str] | None:
    """Google's (status, sentence), or None for a request that it takes."""
    if headers.get("x-goog-api-key") != SECRET or "authorization" in headers or "key=" in path:
        return 400, "API key not valid. Please pass a valid API key."
    found = _PATH.fullmatch(path)
    if not found:
        return 404, f"{path} is not found for API version v1beta."
    for field in asked:
        if field not in _FIELDS:
            return 400, f'Invalid JSON payload received. Unknown name "{field}": Cannot find field.'
    for field in asked.get("generationConfig", {}):
        if field not in _CONFIG:
            return 400, f"Unknown name \"{field}\" at 'generation_config': Cannot find field."
    for at, content in enumerate(asked["contents"]):
        for part in content["parts"]:
            if (
                "functionCall" in part
                and "gemini-3" in found[1]
                and not part.get("thoughtSignature")
            ):
                return 400, f"Function call is missing a thought_signature (contents {at})."
    return None


class GeminiHost:
    """``answers``: for each request the chunks of its answer, or a whole body with its status;
    the last one stays."""

    def __init__(self, *answers: Any) -> None:
        self.answers = list(answers)
        self.seen: list[tuple[str, bytes]] = []
        host = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                host.answer(self)

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        """One request."""
        body = request.rfile.read(int(request.headers["content-length"]))
        self.seen.append((request.path, body))
        headers = {name.lower(): value for name, value in request.headers.items()}
        no = refused(request.path, headers, json.loads(body))
        given = self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]
        if no or isinstance(given, tuple):
            status, told = no or given
            if no:
                told = {"error": {"code": status, "message": told, "status": "INVALID_ARGUMENT"}}
            self._send(request, status, "application/json", json.dumps(told).encode())
        elif request.path.endswith("sse"):
            events = [b"data: %b\r\n\r\n" % json.dumps(one).encode() for one in given]
            self._send(request, 200, "text/event-stream", b"".join(events))
        else:
            self._send(request, 200, "application/json", json.dumps(given[-1]).encode())

    @staticmethod
    def _send(request: BaseHTTPRequestHandler, status: int, media: str, body: bytes) -> None:
        request.send_response(status)
        request.send_header("content-type", media)
        request.send_header("content-length", str(len(body)))
        request.send_header("x-goog-request-id", "number-of-googles")
        request.end_headers()
        request.wfile.write(body)

    def close(self) -> None:
        """Ends it."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def chunk(*parts: Any, ends: str | None = None, **used: int) -> dict[str, Any]:
    """A GenerateContentResponse; ``used``: its usage, each name without ``TokenCount``."""
    candidate: dict[str, Any] = {"content": {"parts": list(parts), "role": "model"}, "index": 0}
    if ends:
        candidate["finishReason"] = ends
    told = {"candidates": [candidate], "modelVersion": "gemini-x", "responseId": "r1"}
    counts = {f"{name}TokenCount": count for name, count in used.items()}
    return told | ({"usageMetadata": counts} if counts else {})
