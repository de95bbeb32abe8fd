"""The product on a real local Ray: one instance, started once, looked at, hurt, and stopped."""

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.app.descendants import descendants
from serving.app.directory import DataDirectory
from serving.app.location import read_location
from serving.core.clock import SystemClock
from serving.core.principals import Role
from tests.instances import ANSWER_S, CENSUS, START_S, Instance
from tests.operators import Operator
from tests.places import running

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]

LISTENING = "0A"
LOOPBACK_4, LOOPBACK_6 = "0100007F", "00000000000000000000000001000000"
MAPPED_LOOPBACK = "0000000000000000FFFF00000100007F"


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """Two versions of the census model, each a Ray Serve application."""
    folder = tmp_path_factory.mktemp("ray")
    with Instance(
        folder,
        engine="ray",
        deployments=[{**CENSUS, "shadows": ["2"]}],
        control={"drain_s": 0.5},
    ) as started:
        started.ready = started.expect("ready", within_s=240)
        yield started


def status_of(instance: Instance) -> dict[str, Any]:
    headers = {"Authorization": f"Bearer {instance.token(Role.OPERATOR)}"}
    url = f"{instance.control_url}/v1/status"
    found: dict[str, Any] = httpx.get(url, headers=headers, timeout=ANSWER_S).json()
    return found


def replicas_of(instance: Instance) -> dict[str, str]:
    """Version to the name of its replica."""
    versions = status_of(instance)["versions"]
    return {v["version"]: r["replica"] for v in versions for r in v["replicas"]}


def eventually(condition: Callable[[], bool]) -> bool:
    clock = SystemClock()
    end_ns = clock.monotonic_ns() + round(START_S * 1e9)
    while clock.monotonic_ns() < end_ns:
        try:
            if condition():
                return True
        except httpx.TransportError:
            pass
        clock.sleep(0.1)
    return False


def tree_of(pid: int) -> list[int]:
    """The process and everything below it."""
    return [pid, *descendants(pid)]


def pid_of(instance: Instance, title: str) -> int:
    """The process of this instance whose command line holds `title`."""
    return running(instance.process.pid, title)[0]


def sockets_of(pid: int) -> list[str]:
    """Inodes of its sockets; what it closes, or all that it had when it ends, is none."""
    targets = []
    with contextlib.suppress(OSError):
        for file in Path(f"/proc/{pid}/fd").iterdir():
            with contextlib.suppress(OSError):
                targets.append(str(file.readlink()))
    return [each[8:-1] for each in targets if each.startswith("socket:[")]


def exposed_ports(pids: list[int]) -> list[str]:
    """Listening TCP sockets of these processes that are not on loopback."""
    owned = {inode for pid in pids for inode in sockets_of(pid)}
    exposed = []
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/net/{table}").read_text().splitlines()[1:]:
            fields = line.split()
            host = fields[1].partition(":")[0]
            on_loopback = host in (LOOPBACK_4, LOOPBACK_6, MAPPED_LOOPBACK)
            if fields[3] == LISTENING and fields[9] in owned and not on_loopback:
                exposed.append(fields[1])
    return exposed


def test_this_ray_has_every_symbol_that_is_used() -> None:
    """A version of Ray that moved a private symbol fails here, not in production."""
    code = "from serving.inference.unstable import missing_symbols; print(missing_symbols())"

    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=True
    )

    assert done.stdout.strip() == "[]"


def test_op_03_a_cluster_without_token_authentication_is_not_used() -> None:
    """OP-03: joining a running cluster is refused, with what to set, before anything connects."""
    code = (
        "from serving.engine_settings import RaySettings;"
        "from serving.inference.cluster import RayEngine;"
        "RayEngine(RaySettings(address='127.0.0.1:1'), locate=lambda: '127.0.0.1:1').connect()"
    )
    environment = {name: text for name, text in os.environ.items() if name != "RAY_AUTH_MODE"}

    done = subprocess.run(  # noqa: S603 - our own code
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment
    )

    assert done.returncode != 0
    assert "StartFailed" in done.stderr
    assert "RAY_AUTH_MODE=token" in done.stderr


def test_prediction_goes_through_a_replica_that_ray_holds(instance: Instance) -> None:
    """Answered by version 1 at the first try after ready; two applications run."""
    answer = instance.infer()

    assert (answer.status_code, answer.json()["model_version"]) == (200, "1")
    assert {"1", "2"} == set(replicas_of(instance))


def test_op_01_nothing_listens_beyond_loopback(instance: Instance) -> None:
    """OP-01: gateways, control, GCS, raylet, agents, Serve and the replicas' own gRPC servers."""
    pids = tree_of(instance.process.pid)

    assert len(pids) > 8
    assert exposed_ports(pids) == []


def test_op_02_ray_refuses_whoever_has_no_token(instance: Instance, tmp_path: Path) -> None:
    """OP-02: the same client, without and with the token of the data directory."""
    directory = DataDirectory.at(instance.data_dir)
    location = read_location(directory.ray_file)
    assert location is not None
    code = f"import ray; ray.init({location.address!r}, logging_level='ERROR'); print('joined')"
    # One attempt: Ray's client takes a refusal for a cluster that is still starting.
    environment = {"HOME": str(tmp_path), "RAY_NUM_REDIS_GET_RETRIES": "1"}
    loopback = {"RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "0"}
    token = {"RAY_AUTH_MODE": "token", "RAY_AUTH_TOKEN_PATH": str(directory.ray_token_file)}

    said = [
        subprocess.run(  # noqa: S603 - our own code
            [sys.executable, "-c", code],
            env={**environment, **loopback, **extra},
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        ).stdout
        for extra in ({}, token)
    ]

    assert ["joined" in each for each in said] == [False, True]


def test_p12_version_deployed_and_moved_to_under_load_costs_no_request(instance: Instance) -> None:
    """A fresh Ray Serve application takes over, the old one is drained and deleted; then back again."""
    operator, stopping = Operator(instance), threading.Event()
    answers: list[tuple[int, str]] = []

    def call() -> None:
        while not stopping.is_set():
            answer = instance.infer()
            answers.append((answer.status_code, answer.headers.get("serving-model-version", "")))

    operator.route("census-employment", "1")
    operator.settle(within_s=START_S)
    caller = threading.Thread(target=call)
    caller.start()
    operator.route("census-employment", "2")
    operator.settle(within_s=START_S)
    alone = set(replicas_of(instance))
    operator.route("census-employment", "1", "2")
    operator.settle(within_s=START_S)
    stopping.set()
    caller.join()

    assert alone == {"2"}
    assert set(answers) == {(200, "1"), (200, "2")}
    assert set(replicas_of(instance)) == {"1", "2"}


def test_control_that_starts_again_finds_its_replicas(instance: Instance) -> None:
    """Killed and respawned, it deploys nothing; callers are served all the time."""
    before = replicas_of(instance)
    served = [instance.infer().status_code]
    os.kill(pid_of(instance, "serving.app.control"), signal.SIGKILL)
    instance.expect("child_died", process="control")

    def connected_again() -> bool:
        served.append(instance.infer().status_code)
        return bool(status_of(instance)["connected"])

    assert eventually(connected_again)
    assert {200} == set(served)
    assert before == replicas_of(instance)


def test_killed_replica_is_replaced_by_ray(instance: Instance) -> None:
    """FT-02: 503 meanwhile, never a wrong answer or a hang, then another replica."""
    before = replicas_of(instance)
    os.kill(pid_of(instance, "ServeReplica:m:census-employment@1~"), signal.SIGKILL)
    codes: set[int] = set()

    def replaced() -> bool:
        codes.add(instance.infer().status_code)
        now = replicas_of(instance)
        return now.get("1") not in (None, before["1"]) and instance.infer().status_code == 200

    assert eventually(replaced)
    assert codes <= {200, 503, 504}
    assert before["2"] == replicas_of(instance)["2"]


def test_stop_takes_ray_with_it(instance: Instance) -> None:
    """Last: exit 0 within the grace; no process, no port, no socket and no temporary folder left."""
    location = read_location(DataDirectory.at(instance.data_dir).ray_file)
    assert location is not None
    pids = tree_of(instance.process.pid)

    status = instance.stop()

    assert status == 0
    assert [pid for pid in pids if Path(f"/proc/{pid}").exists()] == []
    assert not Path(location.temporary).exists()
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", int(instance.url.rpartition(":")[2])))
    assert (instance.data_dir / "logs" / "ray" / "raylet.out").exists()
