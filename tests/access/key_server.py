"""An issuer's web server on loopback, that answers as it is told: well, badly, slowly or not at all."""

import ssl
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

Answer = Callable[[BaseHTTPRequestHandler], None]


class KeyServer:
    """requests: paths asked for, in order. answer: what happens to the next request."""

    def __init__(self, *, tls: ssl.SSLContext | None = None) -> None:
        self.requests: list[str] = []
        self.answer: Answer = status(404)
        self.closing = threading.Event()
        owner = self

        class Answering(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                owner.requests.append(self.path)
                try:
                    owner.answer(self)
                except (ConnectionError, ssl.SSLError):
                    self.close_connection = True

            def log_message(self, *_: Any) -> None:
                """Silent."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Answering)
        self._server.daemon_threads = True
        self._scheme = "http"
        if tls is not None:
            self._scheme = "https"
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}/keys"

    def publish(self, document: bytes) -> None:
        self.answer = body(document)

    @contextmanager
    def running(self) -> Iterator["KeyServer"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield self
        finally:
            self.closing.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def silence(self, handler: BaseHTTPRequestHandler) -> None:
        """Takes the request and says nothing until the test ends."""
        self.closing.wait(30)
        handler.close_connection = True

    def trickle(self, handler: BaseHTTPRequestHandler) -> None:
        """A head, and then a byte now and again."""
        _head(handler, 200, {"Content-Length": "1000000"})
        while not self.closing.wait(0.02):
            handler.wfile.write(b" ")
        handler.close_connection = True


def body(document: bytes, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        _head(handler, 200, {"Content-Length": str(len(document))} | headers)
        handler.wfile.write(document)

    return answer


def status(code: int, **headers: str) -> Answer:
    return lambda handler: _head(handler, code, {"Content-Length": "0"} | headers)


def endless(handler: BaseHTTPRequestHandler) -> None:
    """A hundred million bytes, for whoever takes them."""
    _head(handler, 200, {"Content-Length": "100000000"})
    for _ in range(1000):
        handler.wfile.write(b" " * 100_000)


def cut_short(handler: BaseHTTPRequestHandler) -> None:
    """Less than was announced."""
    _head(handler, 200, {"Content-Length": "1000"})
    handler.wfile.write(b'{"keys": [')
    handler.close_connection = True


def _head(handler: BaseHTTPRequestHandler, code: int, headers: dict[str, str]) -> None:
    handler.send_response(code)
    for name, value in headers.items():
        handler.send_header(name.replace("_", "-"), value)
    handler.end_headers()
