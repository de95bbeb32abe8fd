"""What the open-loop cases load: a server that runs, and the one request that it is sent."""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

import numpy as np

from loadtests.cases import MODELS
from loadtests.children import running
from loadtests.cpu import Account
from loadtests.fixed_capacity import COLUMNS, MODEL
from loadtests.openloop import render
from loadtests.payloads import PAYLOADS, Payload, json_payload
from loadtests.product import product
from loadtests.servers import Server
from loadtests.wrk import Load

START_S: Final = 30.0


@dataclass(frozen=True, slots=True)
class Target:
    """A running server and what it is asked."""

    url: str
    headers: Mapping[str, str]
    payload: Payload
    account: Account

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""

    @property
    def port(self) -> int:
        return urlsplit(self.url).port or 0

    @property
    def request(self) -> bytes:
        headers = {**self.payload.headers, **self.headers}
        return render(urlsplit(self.url).path, self.payload.body, list(headers.items()))

    def closed_load(self, connections: int) -> Load:
        headers = {**self.payload.headers, **self.headers}
        return Load(self.url, headers, self.payload.body, connections)


@contextmanager
def product_target(model: str, folder: Path) -> Iterator[Target]:
    """The product as the benchmark starts it; model: M1 or M2, one row as JSON."""
    with product("fsync", folder) as server:
        yield target_of(server, server.url_of(MODELS[model]), PAYLOADS["json"])


@contextmanager
def fixed_target(folder: Path) -> Iterator[Target]:
    """The product before a model of known capacity. Raises ChildFailed."""
    command = [sys.executable, "-m", "loadtests.fixed_capacity", str(folder / "fixed")]
    with running(command, name="fixed", folder=folder, grace_s=30.0) as child:
        host, port, token = child.wait_for("listening", limit_s=START_S).split()[1:]
        payload = json_payload(np.ones(COLUMNS, np.float32), name="x")
        headers = {"Authorization": f"Bearer {token}"}
        url = f"http://{host}:{port}/v2/models/{MODEL}/infer"
        yield Target(url, headers, payload, child.account)


def target_of(server: Server, url: str, payload: Payload) -> Target:
    """What is asked of a running server."""
    return Target(url, server.headers, payload, server.account)
