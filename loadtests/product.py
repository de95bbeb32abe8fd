"""The product as the benchmark starts it: `serving up --config configs/benchmark.yaml`.

On free ports, with a data directory of its own, with nothing from the caller's SERVING_ variables
and nothing changed but the durability of the log. It counts as up when it says so, when its
metrics answer, and when it refuses a caller without a token: a goal met with a feature switched
off is not met. At the end SIGTERM must be enough, and no process may be left.
"""

import http.client
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Final

from loadtests.children import LOOPBACK, ChildFailed, running
from loadtests.payloads import PAYLOADS, post
from loadtests.ports import free_ports
from loadtests.servers import M1, Server
from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.settings import Settings, load

CONFIG: Final = DEFAULT_MODELS_DIR.parent / "configs" / "benchmark.yaml"
PATH: Final = "/v2/models/{model}/infer"
START_S: Final = 180.0
GRACE_S: Final = 40.0
TOKEN_LIFETIME: Final = "12h"  # noqa: S105 - a duration
TIMEOUT_S: Final = 30.0


@contextmanager
def product(durability: str, folder: Path, *, config: Path = CONFIG) -> Iterator[Server]:
    """The product, up; durability as in `log.durability`. Raises ChildFailed."""
    data_dir = folder / f"product-{durability}"
    data_dir.mkdir(mode=0o700)
    overrides = _overrides(durability, data_dir)
    environment = {**_unset_environment(), **overrides}
    command = [sys.executable, "-m", "serving", "up", "--json", "--config", str(config)]
    name = f"up-{durability}"
    with running(
        command, name=name, folder=folder, environment=environment, grace_s=GRACE_S
    ) as child:
        child.wait_for('"event":"ready"', limit_s=START_S)
        token = _token(environment)
        server = Server(
            url=f"http://{LOOPBACK}:{overrides['SERVING_HTTP_PORT']}",
            path=PATH,
            headers={"Authorization": f"Bearer {token}"},
            account=child.account,
            grpc_address=f"{LOOPBACK}:{overrides['SERVING_GRPC_PORT']}",
            environment=environment,
        )
        _check_guard(server)
        _check_metrics(int(overrides["SERVING_METRICS_PORT"]))
        yield server


def effective_settings() -> Settings:
    """What the configuration says; durability and places apart, the same for every start."""
    return load(config=CONFIG, environment={})


def _overrides(durability: str, data_dir: Path) -> dict[str, str]:
    groups = ("HTTP", "GRPC", "METRICS", "CONTROL")
    ports = zip(groups, free_ports(len(groups)), strict=True)
    return {
        **{f"SERVING_{group}_PORT": str(port) for group, port in ports},
        "SERVING_DATA_DIR": str(data_dir),
        "SERVING_LOG_DURABILITY": durability,
    }


def _unset_environment() -> dict[str, str]:
    """Ours without settings: what runs is what the configuration file says."""
    return {name: value for name, value in os.environ.items() if not name.startswith("SERVING_")}


def _token(environment: Mapping[str, str]) -> str:
    command = [sys.executable, "-m", "serving", "token", "--config", str(CONFIG)]
    command += ["--subject", "benchmark", "--role", "caller", "--ttl", TOKEN_LIFETIME]
    done = subprocess.run(  # noqa: S603 - the command line is the benchmark's own
        command, env=environment, capture_output=True, text=True, timeout=TIMEOUT_S, check=False
    )
    if done.returncode:
        raise ChildFailed(f"no token: {done.stderr.strip()}")
    return done.stdout.strip()


def _check_guard(server: Server) -> None:
    payload = PAYLOADS["json"]
    status, _, _ = post(server.url_of(M1), payload.body, payload.headers)
    if status != HTTPStatus.UNAUTHORIZED:
        raise ChildFailed(f"a caller without a token was answered {status}: is authentication on?")


def _check_metrics(port: int) -> None:
    connection = http.client.HTTPConnection(LOOPBACK, port, timeout=TIMEOUT_S)
    try:
        connection.request("GET", "/metrics")
        answer = connection.getresponse()
        if answer.status != HTTPStatus.OK or b"serving_" not in answer.read():
            raise ChildFailed(f"metrics do not answer: {answer.status}")
    finally:
        connection.close()
