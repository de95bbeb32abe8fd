"""The servers beside the product that are measured, each as a context manager that yields a `Server`.

What they are is in `fixed_answer` and `plain_ray`; here they are started, and gone afterwards.
"""

import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from loadtests.ceilings import artifact_of
from loadtests.children import LOOPBACK, running
from loadtests.cpu import Account
from loadtests.ports import free_port

FLOOR_START_S: Final = 20.0
PEER_START_S: Final = 120.0
PEER_GRACE_S: Final = 60.0
M1: Final = "bench-m1"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server. path: with `{model}` where it serves several. numeric: it runs the model.
    grpc_address: empty where it does not speak it. environment: with which the product's own commands
    find it."""

    url: str
    path: str
    headers: Mapping[str, str]
    account: Account
    numeric: bool = True
    grpc_address: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)

    def url_of(self, model: str) -> str:
        return self.url + self.path.format(model=model)


@contextmanager
def floor(kind: str, folder: Path) -> Iterator[Server]:
    """A fixed answer: kind is `bare`, `edge` or `grpc`, see `fixed_answer`."""
    command = [sys.executable, "-m", "loadtests.fixed_answer", kind]
    with running(command, name=kind, folder=folder) as child:
        port = child.wait_for("listening", limit_s=FLOOR_START_S).split()[1]
        address = f"{LOOPBACK}:{port}"
        yield Server(
            f"http://{address}", "/", {}, child.account, numeric=False, grpc_address=address
        )


@contextmanager
def plain_ray(folder: Path) -> Iterator[Server]:
    """M1 as a plain Ray Serve application, see `plain_ray`."""
    port = free_port()
    # Short, because the sockets below it must fit into 107 bytes.
    temporary = Path(tempfile.mkdtemp(prefix="peer-"))
    command = [sys.executable, "-m", "loadtests.plain_ray", str(artifact_of(M1))]
    command += ["--port", str(port), "--folder", str(temporary)]
    try:
        with running(command, name="plain-ray", folder=folder, grace_s=PEER_GRACE_S) as child:
            child.wait_for("ready", limit_s=PEER_START_S)
            yield Server(f"http://{LOOPBACK}:{port}", "/", {}, child.account)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
