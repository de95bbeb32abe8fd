"""haproxy and nginx before the product, as an operator would put them: connections are reused."""

import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

from loadtests.ports import free_port
from tests.edge.wire import Client, request
from tests.places import wait_until

FRONTS: Final = ("haproxy", "nginx")
POOLED: Final = 8
"""Connections to the product that a front keeps open for its next callers."""

_HAPROXY: Final = """
global
    maxconn 2000
defaults
    mode http
    timeout connect 5s
    timeout client 10s
    timeout server 10s
    timeout http-keep-alive 1s
frontend callers
    bind 127.0.0.1:{front}
    default_backend product
backend product
    http-reuse always
    server product 127.0.0.1:{product} pool-max-conn 8 pool-purge-delay 1s
"""

# Bodies go through as they come, and the answer too: what is hostile must reach the product.
_NGINX: Final = """
daemon off;
worker_processes 1;
pid {folder}/nginx.pid;
error_log {folder}/error.log;
events {{ worker_connections 2048; }}
http {{
    access_log off;
    client_max_body_size 0;
    client_body_temp_path {folder}/body;
    proxy_temp_path {folder}/proxy;
    fastcgi_temp_path {folder}/fastcgi;
    uwsgi_temp_path {folder}/uwsgi;
    scgi_temp_path {folder}/scgi;
    upstream product {{
        server 127.0.0.1:{product};
        keepalive 8;
        keepalive_timeout 1s;
    }}
    server {{
        listen 127.0.0.1:{front};
        underscores_in_headers on;
        ignore_invalid_headers off;
        location / {{
            proxy_pass http://product;
            proxy_http_version 1.1;
            proxy_set_header Connection "";
            proxy_set_header Host $http_host;
            proxy_request_buffering off;
            proxy_buffering off;
        }}
    }}
}}
"""


def installed(name: str) -> str | None:
    """Where the program of a front is; /usr/sbin is not on everybody's path."""
    return shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")


@contextmanager
def front(name: str, folder: Path, *, product: int) -> Iterator[int]:
    """Runs a front before the product's port; yields the front's own port."""
    port = free_port()
    template = {"haproxy": _HAPROXY, "nginx": _NGINX}[name]
    config = folder / f"{name}.conf"
    config.write_text(template.format(front=port, product=product, folder=folder))
    arguments = {
        "haproxy": ["-db", "-f", str(config)],
        "nginx": ["-p", str(folder), "-c", str(config), "-e", str(folder / "error.log")],
    }
    program = installed(name)
    assert program is not None
    with (folder / "output.txt").open("wb") as output:
        process = subprocess.Popen(  # noqa: S603 - a program of the system, our own configuration
            [program, *arguments[name]], stdout=output, stderr=output
        )
    try:
        wait_until(lambda: process.poll() is not None or _answers(port))
        assert process.poll() is None, (folder / "output.txt").read_text()
        yield port
    finally:
        process.terminate()
        process.wait(10)


def _answers(port: int) -> bool:
    try:
        with Client(port) as client:
            return client.send(request("GET", "/v2/health/live")).receive().status == 200
    except (OSError, AssertionError):
        return False
