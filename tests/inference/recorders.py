"""A control port that only takes notes, for what runs on the replica's side of it."""

import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(frozen=True)
class Received:
    """One request."""

    method: str
    path: str
    authorization: str
    body: bytes


class ControlRecorder:
    """Answers every request with 200 and keeps it. Use it as a context manager."""

    def __init__(self, port: int = 0) -> None:
        self.received: list[Received] = []
        self._news = threading.Condition()
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self.port = int(self._server.server_address[1])

    def __enter__(self) -> "ControlRecorder":
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def wait_for(self, method: str, path: str, *, count: int = 1) -> Received:
        """The last of `count` requests of this kind, once they have come."""

        def found() -> list[Received]:
            return [each for each in self.received if (each.method, each.path) == (method, path)]

        with self._news:
            assert self._news.wait_for(lambda: len(found()) >= count, timeout=10)
            return found()[-1]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        recorder = self

        class Taker(BaseHTTPRequestHandler):
            def do_PUT(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = self.rfile.read(length)
                received = Received(
                    self.command, self.path, self.headers.get("Authorization", ""), body
                )
                recorder.note(received)
                self.send_response(200)
                self.send_header("Content-Length", "2")
                self.end_headers()
                self.wfile.write(b"{}")

            do_DELETE = do_PUT  # noqa: N815 - the standard library's name

            def log_message(self, *_: Any) -> None:
                """Says nothing."""

        return Taker

    def note(self, received: Received) -> None:
        with self._news:
            self.received.append(received)
            self._news.notify_all()
