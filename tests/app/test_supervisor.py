import os
import signal
import socket
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from serving.app.supervisor import SAME_REQUEST_S
from serving.core.clock import SystemClock
from serving.core.principals import Role
from tests.instances import ANSWER_S, CENSUS, START_S, Instance

pytestmark = pytest.mark.timeout(300)

TWO_VERSIONS = {**CENSUS, "shadows": ["2"]}


@pytest.fixture(scope="module")
def instance(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Instance]:
    """One running instance without Ray, shared by the tests that only look."""
    with Instance(
        tmp_path_factory.mktemp("instance"), deployments=[TWO_VERSIONS], http={"workers": 2}
    ) as running:
        running.ready = running.expect("ready")
        yield running


def test_predictions_are_answered_as_soon_as_it_says_ready(instance: Instance) -> None:
    """The ready event is the promise; the first request is served."""
    answer = instance.infer()

    assert answer.status_code == 200
    assert [output["shape"] for output in answer.json()["outputs"]] == [[1], [1, 2]]


def test_ready_event_says_where_everything_is(instance: Instance) -> None:
    """Addresses, counts and both commands, for programs."""
    ready = instance.ready

    assert (ready["versions"], ready["replicas"]) == (2, 2)
    assert f"{instance.url}/v2" == ready["inference"]
    assert str(instance.data_dir) in ready["token_command"]
    assert "/v2/models/census-employment/infer" in ready["try_command"]


def test_metrics_port_speaks_for_every_process(instance: Instance) -> None:
    """One scrape: each sample says which process it is from, each family is described once."""
    text = instance.scrape()

    assert 'serving_process_up{process="supervisor",name="gateway-1"} 1.0' in text
    for process in ("control", "gateway-0", "gateway-1"):
        assert f'serving_snapshot_epoch{{process="{process}"' in text
    assert text.count("# TYPE serving_snapshot_epoch gauge") == 1


def test_control_port_asks_for_an_operator(instance: Instance) -> None:
    """The status needs an operator's token; a caller's is not enough."""
    url = f"{instance.control_url}/v1/status"
    tokens = [instance.token(Role.CALLER), instance.token(Role.OPERATOR)]
    codes = [
        httpx.get(url, timeout=ANSWER_S).status_code,
        *(
            httpx.get(
                url, headers={"Authorization": f"Bearer {token}"}, timeout=ANSWER_S
            ).status_code
            for token in tokens
        ),
    ]

    assert codes == [401, 403, 200]


def test_second_instance_on_the_same_directory_is_refused(
    instance: Instance, tmp_path: Path
) -> None:
    """It says who holds the directory, and touches nothing."""
    with Instance(tmp_path, data_dir=instance.data_dir) as second:
        complaint = second.complaint()

    assert second.process.returncode == 2
    assert f"in use by another `serving up` (process {instance.process.pid})" in complaint
    assert instance.infer().status_code == 200


def test_port_in_use_is_named(instance: Instance, tmp_path: Path) -> None:
    """The refusal names the setting, the port and how to choose another."""
    port = int(instance.url.rpartition(":")[2])
    with Instance(tmp_path, http={"port": port}) as second:
        complaint = second.complaint()

    assert second.process.returncode == 2
    assert f"http.port {port} on 127.0.0.1 cannot be used" in complaint
    assert "--http-port or SERVING_HTTP_PORT" in complaint


@pytest.mark.parametrize("with_signal", [signal.SIGINT, signal.SIGTERM])
def test_stop_leaves_nothing_behind(tmp_path: Path, with_signal: signal.Signals) -> None:
    """Exit 0; no process, no listening port, no socket; keys and the log remain."""
    with Instance(tmp_path) as instance:
        instance.expect("ready")
        assert instance.infer().status_code == 200
        status = instance.stop(with_signal=with_signal)

        assert status == 0
        assert instance.expect("stopped")["killed"] == []
        assert instance.processes() == []
        assert not (instance.data_dir / "run").exists()
        for url in (instance.url, instance.metrics_url, instance.control_url):
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", int(url.rpartition(":")[2])))
        assert (instance.data_dir / "keys" / "issuer.pem").exists()
        assert list((instance.data_dir / "log" / "gateway-0").iterdir())


def test_killed_gateway_is_started_again(tmp_path: Path) -> None:
    """A dead worker is told and replaced; callers are served again."""
    with Instance(tmp_path) as instance:
        instance.expect("ready")
        kill(instance, "serving.app.worker")

        died = instance.expect("child_died")

        assert (died["process"], died["status"]) == ("gateway-0", -signal.SIGKILL)
        assert eventually_answers(instance) == 200


def test_ft_04_killed_control_does_not_touch_the_gateways(tmp_path: Path) -> None:
    """The worker's process is the same before and after."""
    with Instance(tmp_path) as instance:
        instance.expect("ready")
        before = pids_of(instance, "serving.app.worker")
        kill(instance, "serving.app.local_control")
        instance.expect("child_died", process="control")

        assert eventually_answers(instance) == 200
        assert before == pids_of(instance, "serving.app.worker")


def test_damaged_artifact_ends_the_start_with_its_name(tmp_path: Path) -> None:
    """Which model, which file, what is wrong; exit 2; nothing left running."""
    models = tmp_path / "models"
    source = Path(__file__).parents[2] / "models" / "census-employment"
    (models / "census-employment").mkdir(parents=True)
    (models / "census-employment" / "model.yaml").write_bytes((source / "model.yaml").read_bytes())
    (models / "census-employment" / "1.onnx").write_bytes(b"not what was approved")
    with Instance(tmp_path, models_dir=models) as instance:
        complaint = instance.complaint()

        assert instance.process.returncode == 2
        assert "census-employment@1" in complaint
        assert "has the SHA-256" in complaint
        assert "control.log" in complaint
        assert "Traceback" not in complaint
        assert instance.processes() == []


def test_start_that_takes_too_long_is_given_up_with_what_it_waited_for(tmp_path: Path) -> None:
    """`control.ready_timeout_s` bounds the start."""
    with Instance(tmp_path, control={"ready_timeout_s": 0.05}) as instance:
        complaint = instance.complaint()

        assert instance.process.returncode == 2
        assert "not ready within control.ready_timeout_s = 0.05: waiting for" in complaint


def test_second_interrupt_kills_at_once(tmp_path: Path) -> None:
    """A worker that cannot end in time does not hold up who insists."""
    with Instance(tmp_path) as instance:
        instance.expect("ready")
        for pid in pids_of(instance, "serving.app.worker"):
            os.kill(pid, signal.SIGSTOP)  # It will not answer to SIGTERM.
        instance.process.send_signal(signal.SIGINT)
        instance.expect("stopping")
        SystemClock().sleep(2 * SAME_REQUEST_S)  # Two that come together count as one.

        assert instance.stop(with_signal=signal.SIGINT) == 1
        assert instance.processes() == []


def test_request_that_arrives_twice_is_one_request(tmp_path: Path) -> None:
    """What wraps a command may repeat a signal; the stop is as clean as with one."""
    with Instance(tmp_path) as instance:
        instance.expect("ready")
        for each in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            instance.process.send_signal(each)

        assert instance.stop() == 0
        assert instance.expect("stopped")["killed"] == []


def pids_of(instance: Instance, module: str) -> list[int]:
    found = []
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().split(b"\0")
        except OSError:
            continue
        settings = str(instance.data_dir / "run" / "settings.json").encode()
        if module.encode() in command and settings in command:
            found.append(int(file.parent.name))
    return found


def kill(instance: Instance, module: str) -> None:
    for pid in pids_of(instance, module):
        os.kill(pid, signal.SIGKILL)


def eventually_answers(instance: Instance) -> int:
    """The status of the first request that reaches somebody who can serve it."""
    clock = SystemClock()
    end_ns = clock.monotonic_ns() + round(START_S * 1e9)
    while True:
        try:
            status = instance.infer().status_code
        except httpx.TransportError:
            status = 0
        if status == 200 or clock.monotonic_ns() > end_ns:
            return status
        clock.sleep(0.1)
