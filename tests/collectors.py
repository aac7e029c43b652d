"""Receivers of exports for tests: strict stand-ins for Splunk and Datadog, and what answers amiss.

They check what the real ones check and keep what they took, by its id.
"""

from __future__ import annotations

import gzip
import json
import re
import threading
import time
from collections import Counter
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple
from urllib.parse import parse_qs, urlsplit

Headers = dict[str, str]
Answer = tuple[int, Headers, Any]
GUID = re.compile(r"[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}")
POISON = "poison"


class Asked(NamedTuple):
    """A request: when it came, its path with the query, headers and the body unpacked."""

    at: float
    path: str
    headers: Headers
    body: bytes


class Collector:
    """An HTTP server on the loopback until ``close``.

    ``faults`` are used up, one per request: a status (with headers), ``lost`` (the batch is taken
    and the connection cut before the answer), ``held`` (taken, and no answer until ``release``).
    """

    def __init__(self, port: int = 0) -> None:
        self.asked: list[Asked] = []
        self.faults: list[tuple[int | str, Headers]] = []
        self.taken: Counter[str] = Counter()
        self.documents: dict[str, Any] = {}
        self.release = threading.Event()
        self.lock = threading.Lock()
        collector = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # an answer is one packet

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                headers = {name.lower(): value for name, value in self.headers.items()}
                if headers.get("content-encoding") == "gzip":
                    body = gzip.decompress(body)
                with collector.lock:
                    asked = Asked(time.monotonic(), self.path, headers, body)
                    collector.asked.append(asked)
                    fault, more = collector.faults.pop(0) if collector.faults else (0, {})
                    if isinstance(fault, int) and fault:
                        answer: Answer = (fault, more, {"fault": fault})
                    else:
                        answer = collector.answer(asked)
                if fault in ("lost", "held"):
                    if fault == "held":
                        collector.release.wait(60)
                    self.close_connection = True
                    return
                self._say(*answer)

            def _say(self, status: int, headers: Headers, said: Any) -> None:
                raw = said if isinstance(said, bytes) else json.dumps(said).encode()
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                if not isinstance(said, bytes):
                    self.send_header("content-type", "application/json")
                self.send_header("content-length", str(len(raw)))
                self.end_headers()
                self.wfile.write(raw)

            do_PUT = do_POST

            def log_message(self, *_: Any) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that leaves is no error here."""

        self._server = Server(("127.0.0.1", port), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def answer(self, asked: Asked) -> Answer:
        """What a sound request is answered."""
        raise NotImplementedError

    def take(self, documents: list[tuple[str, Any]]) -> None:
        """Keeps what was taken."""
        for identifier, document in documents:
            self.taken[identifier] += 1
            self.documents[identifier] = document

    def close(self) -> None:
        """Ends the server."""
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


class Hec(Collector):
    """Splunk's HTTP Event Collector with one token, as its documentation describes it."""

    FIELDS = frozenset(("time", "host", "source", "sourcetype", "index", "fields", "event"))

    def __init__(self, token: str, *, acks: bool = False, late: int = 0) -> None:
        """``late``: so many questions for an acknowledgement are answered false."""
        self.token, self.acks, self.late = token, acks, late
        self.pending: dict[tuple[str, int], int] = {}
        super().__init__()

    def answer(self, asked: Asked) -> Answer:
        parts = urlsplit(asked.path)
        scheme, _, token = asked.headers.get("authorization", "").partition(" ")
        if not token:
            return 401, {}, {"text": "Token is required", "code": 2}
        if scheme != "Splunk":
            return 401, {}, {"text": "Invalid authorization", "code": 3}
        if token != self.token:
            return 403, {}, {"text": "Invalid token", "code": 4}
        channel = asked.headers.get("x-splunk-request-channel", "") or "".join(
            parse_qs(parts.query).get("channel", [])
        )
        if self.acks and not channel:
            return 400, {}, {"text": "Data channel is missing", "code": 10}
        if self.acks and not GUID.fullmatch(channel):
            return 400, {}, {"text": "Invalid data channel", "code": 11}
        if parts.path == "/services/collector/ack":
            return self._acknowledge(asked, channel)
        if parts.path != "/services/collector/event":
            return 404, {}, {"text": "The requested URL was not found on this server.", "code": 404}
        return self._events(asked, channel)

    def _events(self, asked: Asked, channel: str) -> Answer:
        if not asked.body.strip():
            return 400, {}, {"text": "No data", "code": 5}
        found: list[tuple[str, Any]] = []
        decoder, text, at = json.JSONDecoder(), asked.body.decode(), 0
        while at < len(text):
            number = len(found)
            try:
                event, at = decoder.raw_decode(text, at)
            except ValueError:
                return _invalid("Invalid data format", 6, number)
            at += len(text[at:]) - len(text[at:].lstrip())
            if not isinstance(event, dict) or set(event) - self.FIELDS:
                return _invalid("Invalid data format", 6, number)
            if "event" not in event:
                return _invalid("Event field is required", 12, number)
            if event["event"] in ("", {}):
                return _invalid("Event field cannot be blank", 13, number)
            moment = event.get("time", 0)
            if isinstance(moment, bool) or not isinstance(moment, int | float) or moment > 1e10:
                return _invalid("Invalid data format", 6, number)
            fields = event.get("fields", {})
            if not all(isinstance(value, str) for value in fields.values()):
                return _invalid("Error in handling indexed fields", 15, number)
            if POISON in json.dumps(event):
                return _invalid("Invalid data format", 6, number)
            found.append((fields.get("id", f"foreign {number}"), event))
        self.take(found)
        said: dict[str, Any] = {"text": "Success", "code": 0}
        if self.acks:
            said["ackId"] = len(self.pending)
            self.pending[channel, said["ackId"]] = self.late
        return 200, {}, said

    def _acknowledge(self, asked: Asked, channel: str) -> Answer:
        if not self.acks:
            return 400, {}, {"text": "ACK is disabled", "code": 14}
        answers = {}
        for number in json.loads(asked.body)["acks"]:
            left = self.pending.get((channel, number), 1)
            self.pending[channel, number] = left - 1
            answers[str(number)] = left == 0  # true once, then forgotten
        return 200, {}, {"acks": answers}


def _invalid(text: str, code: int, number: int) -> Answer:
    return 400, {}, {"text": text, "code": code, "invalid-event-number": number}


class Intake(Collector):
    """Datadog's intake of logs with one API key, as its documentation describes it."""

    MOST, MOST_BYTES, MOST_LOG = 1000, 5_000_000, 1_000_000

    def __init__(self, key: str) -> None:
        self.key = key
        super().__init__()

    def answer(self, asked: Asked) -> Answer:
        if urlsplit(asked.path).path != "/api/v2/logs":
            return 404, {}, {"errors": ["Not found"]}
        if asked.headers.get("dd-api-key") != self.key:
            return 403, {}, {"errors": [{"status": "403", "title": "Forbidden"}]}
        if len(asked.body) > self.MOST_BYTES:
            return 413, {}, {"errors": [{"status": "413", "title": "Payload too large"}]}
        try:
            logs = json.loads(asked.body)
        except ValueError:
            return _bad("invalid JSON")
        logs = logs if isinstance(logs, list) else [logs]
        if not logs or len(logs) > self.MOST:
            return _bad("1 to 1000 logs are expected")
        for log in logs:
            if not isinstance(log, dict) or not isinstance(log.get("message"), str):
                return _bad("a log has a message")
            if POISON in json.dumps(log) or len(json.dumps(log)) > self.MOST_LOG:
                return _bad("a log is wrong")
        self.take([(log.get("id", f"foreign {n}"), log) for n, log in enumerate(logs)])
        return 202, {}, {}


def _bad(detail: str) -> Answer:
    return 400, {}, {"errors": [{"status": "400", "title": "Bad Request", "detail": detail}]}


class Plain(Collector):
    """Takes what ``take_from`` finds in a request's body, unless it is poisoned."""

    def __init__(
        self, take_from: Callable[[bytes], list[tuple[str, Any]]], status: int = 200
    ) -> None:
        self.take_from, self.status = take_from, status
        super().__init__()

    def answer(self, asked: Asked) -> Answer:
        if POISON.encode() in asked.body:
            return 400, {}, {"error": "something is wrong"}
        self.take(self.take_from(asked.body))
        return self.status, {}, b""
