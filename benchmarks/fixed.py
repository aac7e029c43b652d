"""The provider with fixed answers: nginx, because our mock costs more than a fast proxy does.

It looks at one header instead of the body. Where nginx is not installed the mock stands in, and
the load core is the limit long before a fast proxy is.
"""

from __future__ import annotations

import json
from pathlib import Path

from benchmarks.answer import await_answer
from benchmarks.gateway import Mock
from benchmarks.load import Target
from benchmarks.peers.nginx import Nginx, configuration
from benchmarks.processes import START_S, Server, children, free_port

EVENTS = 30
SENTENCE = "All is well, sir, and so it goes on. "
USAGE = {
    "input_tokens": 412,
    "cache_creation_input_tokens": 1024,
    "cache_read_input_tokens": 12288,
    "output_tokens": 287,
}
# The filter that replaces nothing makes the answer's length unknown: it comes in chunks.
SERVER = """  server {{
    listen 127.0.0.1:{port} backlog=4096;
    add_header request-id req_0123456789abcdef;
    location / {{
      if ($http_x_bench_stream) {{ rewrite ^ /stream last; }}
      default_type application/json;
      return 200 '{whole}';
    }}
    location = /stream {{
      default_type text/event-stream;
      sub_filter_types text/event-stream;
      sub_filter '<never>' '';
{parts}
      return 200 '{names}';
    }}
  }}"""


def whole() -> str:
    """The JSON answer, about 1 kB."""
    return json.dumps({
        "id": "msg_0123456789", "type": "message", "role": "assistant",
        "model": "claude-sonnet-4-5", "content": [{"type": "text", "text": SENTENCE * 16}],
        "stop_reason": "end_turn", "stop_sequence": None, "usage": USAGE,
    })  # fmt: skip


def events() -> list[str]:
    """The stream: start, 30 deltas, end."""
    message: dict[str, object] = {
        "id": "msg_0123456789", "type": "message", "role": "assistant",
        "model": "claude-sonnet-4-5", "content": [], "stop_reason": None,
        "stop_sequence": None, "usage": {**USAGE, "output_tokens": 1},
    }  # fmt: skip
    block = {"type": "text", "text": ""}
    delta = {"type": "text_delta", "text": SENTENCE}
    ending = {"stop_reason": "end_turn", "stop_sequence": None}
    return [
        _event("message_start", message=message),
        _event("content_block_start", index=0, content_block=block),
        *[_event("content_block_delta", index=0, delta=delta)] * EVENTS,
        _event("content_block_stop", index=0),
        _event("message_delta", delta=ending, usage={"output_tokens": USAGE["output_tokens"]}),
        _event("message_stop"),
    ]


def _event(kind: str, **members: object) -> str:
    return f"event: {kind}\ndata: {json.dumps({'type': kind, **members})}\n\n"


def server(port: int) -> str:
    """The part of nginx.conf: long texts go through variables, a word has at most 4 kB."""
    stream = "".join(events())
    pieces = [stream[at : at + 2000] for at in range(0, len(stream), 2000)]
    parts = "\n".join(f"      set $part{n} '{piece}';" for n, piece in enumerate(pieces))
    names = "".join(f"${{part{n}}}" for n in range(len(pieces)))
    return SERVER.format(port=port, whole=whole(), parts=parts, names=names)


class Fixed:
    """nginx with fixed answers on one core; like ``Mock``."""

    def __init__(self, program: str, folder: Path, core: int) -> None:
        prefix = folder / "fixed"
        prefix.mkdir(parents=True)
        port = free_port()
        config = prefix / "nginx.conf"
        config.write_text(configuration(str(prefix), server(port)))
        command = [program, "-p", str(prefix), "-c", str(config)]
        self._server = Server("fixed", command, prefix, core)
        self.url = f"http://127.0.0.1:{port}"
        path = "/v1/messages"
        self.target = Target("direct", "127.0.0.1", port, path, path, {"mock": self._server.pid})
        try:
            await_answer(self.target, START_S, self._server.check)
            [self.target.pids["mock"]] = children(self._server.pid)
        except BaseException:
            self.stop()
            raise

    def stop(self) -> None:
        """Ends it."""
        self._server.stop()


def provider(folder: Path, core: int) -> Fixed | Mock:
    """The fastest provider there is on this machine."""
    program = Nginx.find()
    return Fixed(program, folder, core) if program else Mock(folder, core)
