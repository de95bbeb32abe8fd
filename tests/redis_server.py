"""A real Redis for tests: on a free port of loopback, without files, gone with the test."""

import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

import pytest


def require_redis() -> str:
    """The server's path; skips the test where there is none."""
    found = shutil.which("redis-server")
    if found is None:
        pytest.skip("redis-server (Debian's package of that name) is not installed")
    return found


@contextmanager
def redis_server(port: int) -> Iterator["subprocess.Popen[bytes]"]:
    """Answers when entered; killed at the end if it still runs."""
    command = [require_redis(), "--bind", "127.0.0.1", "--port", str(port), "--save", ""]
    server = subprocess.Popen(  # noqa: S603 -- the program that was asked for
        [*command, "--appendonly", "no"], stdout=subprocess.DEVNULL
    )
    try:
        _until_it_answers(port)
        yield server
    finally:
        server.kill()
        server.wait()


def _until_it_answers(port: int) -> None:
    end = time.monotonic() + 10
    while time.monotonic() < end:
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1) as asked:
            asked.sendall(b"PING\r\n")
            if asked.recv(16).startswith(b"+PONG"):
                return
    raise TimeoutError("redis-server did not answer within 10 s")
