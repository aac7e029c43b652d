"""What stands between an exporter and a real server on the loopback, and is not always passable."""

from __future__ import annotations

import contextlib
import http.client
import select
import socket
import struct
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Headers = dict[str, str]
Fault = tuple[int | str, Headers]
STUCK = "stuck"
PATIENCE_S = 60.0
PIECE = 1 << 16
WINDOW = 2048  # bytes a wire's system takes by itself, before anybody reads them
_OURS = frozenset(("connection", "content-length", "transfer-encoding", "keep-alive"))


class Bridge:
    """HTTP, passed on byte for byte; ``faults`` are used up, one per request.

    A status (with headers) is answered here and nothing is passed on. ``half``: the server gets
    half of the body and then nobody. ``lost``: the server has answered, the exporter gets cut off.
    ``held``: it has answered, and the exporter waits until ``release``; ``answered`` says when.
    """

    def __init__(self, server: str) -> None:
        """``server``: address of the real one."""
        address = server.removeprefix("http://").partition(":")
        self.faults: list[Fault] = []
        self.asked: list[float] = []  # when
        self.statuses: list[int] = []  # of the real server, in the order of its answers
        self.answered, self.release = threading.Event(), threading.Event()
        self._lock = threading.Lock()
        bridge, to = self, (address[0], int(address[2]))

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            wbufsize = 1 << 16  # an answer is one packet

            def do_POST(self) -> None:
                size = int(self.headers["content-length"])
                body = self.rfile.read(size)
                with bridge._lock:
                    bridge.asked.append(time.monotonic())
                    fault, more = bridge.faults.pop(0) if bridge.faults else (0, {})
                if isinstance(fault, int) and fault:
                    self._say(fault, more, b"no")
                    return
                fields = "".join(f"{name}: {value}\r\n" for name, value in self.headers.items())
                head = f"{self.requestline}\r\n{fields}\r\n".encode()
                if fault == "half":
                    body = body[: size // 2]
                answer = _passed(to, self.command, head, body, whole=len(body) == size)
                if answer is not None:
                    bridge.statuses.append(answer[0])
                if fault == "held":
                    bridge.answered.set()
                    bridge.release.wait(PATIENCE_S)
                if fault or answer is None:
                    self.close_connection = True
                else:
                    self._say(*answer)

            def _say(self, status: int, headers: Headers, said: bytes) -> None:
                self.send_response_only(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("content-length", str(len(said)))
                self.end_headers()
                self.wfile.write(said)

            do_PUT = do_POST

            def log_message(self, *_: Any) -> None:
                """Silent."""

        class Server(ThreadingHTTPServer):
            daemon_threads = True

            def handle_error(self, *_: Any) -> None:
                """A client that leaves is no error here."""

        self._server = Server(("127.0.0.1", 0), Handler)
        self.port = self._server.server_address[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,))
        self._thread.start()

    def close(self) -> None:
        """Ends it."""
        self.release.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()


def _passed(
    to: tuple[str, int], method: str, head: bytes, body: bytes, *, whole: bool
) -> tuple[int, Headers, bytes] | None:
    """What the server answers; None to what is not whole."""
    with socket.create_connection(to, PATIENCE_S) as server:
        server.sendall(head + body)
        if not whole:
            return None
        answer = http.client.HTTPResponse(server, method=method)
        with contextlib.closing(answer):
            answer.begin()
            headers = {k: v for k, v in answer.getheaders() if k.lower() not in _OURS}
            return answer.status, headers, answer.read()


class Wire:
    """TCP, passed on byte for byte; ``faults`` are used up, one per connection.

    A number: so many bytes are passed on, and then the exporter is cut off. ``stuck``: nothing is
    read. What the exporter's system believes sent before that is little.
    """

    def __init__(self, port: int) -> None:
        """``port``: of the real server."""
        self.faults: list[int | str] = []
        self.connections = 0
        self._to = port
        self._closing = threading.Event()
        self._socket = socket.socket()
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, WINDOW)
        self._socket.bind(("127.0.0.1", 0))
        self._socket.listen()
        self.port = int(self._socket.getsockname()[1])
        self._threads = [threading.Thread(target=self._serve)]
        self._threads[0].start()

    def _serve(self) -> None:
        while not self._closing.is_set():
            if not select.select([self._socket], [], [], 0.05)[0]:
                continue
            client, _ = self._socket.accept()
            self.connections += 1
            fault = self.faults.pop(0) if self.faults else None
            thread = threading.Thread(target=self._carry, args=(client, fault))
            self._threads.append(thread)
            thread.start()

    def _carry(self, client: socket.socket, fault: int | str | None) -> None:
        with client, contextlib.suppress(ConnectionError):
            if fault == STUCK:
                self._left(client)
            elif isinstance(fault, int):
                self._pass(client, fault)
            else:
                client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 1 << 20)
                self._pass(client, 1 << 60)
                return
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))

    def _left(self, client: socket.socket) -> None:
        """Waits until the other side gives up."""
        poll = select.poll()
        poll.register(client, select.POLLRDHUP)
        while not self._closing.is_set() and not poll.poll(50):
            pass

    def _pass(self, client: socket.socket, most: int) -> None:
        """Passes on until the client ends, we do, or so much was passed on."""
        client.settimeout(0.05)
        with socket.create_connection(("127.0.0.1", self._to), PATIENCE_S) as server:
            while most and not self._closing.is_set():
                try:
                    piece = client.recv(min(PIECE, most))
                except TimeoutError:
                    continue
                if not piece:
                    return
                server.sendall(piece)
                most -= len(piece)

    def close(self) -> None:
        """Ends it."""
        self._closing.set()
        for thread in self._threads:
            thread.join(PATIENCE_S)
        self._socket.close()
