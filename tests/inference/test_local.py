from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from serving.access.keys import internal_secret
from serving.core.clock import SystemClock
from serving.inference.local import LocalEngine
from serving.inference.plans import ApplicationPlan, State
from serving.inference.registration import PhaseReport, Renewal
from serving.inference.session import OnnxSession
from serving.settings import ControlSettings, InferenceSettings, Settings
from tests.inference import graphs
from tests.inference.recorders import ControlRecorder
from tests.plans import an_order


@pytest.fixture
def control() -> Iterator[ControlRecorder]:
    with ControlRecorder() as recorder:
        yield recorder


@pytest.fixture
def plan(tmp_path: Path, control: ControlRecorder) -> ApplicationPlan:
    """Two replicas of a model that doubles its input, at a control that takes notes."""
    content = graphs.doubling()
    settings = Settings(
        control=ControlSettings(port=control.port, renew_s=0.01),
        inference=InferenceSettings(device="cpu"),
    )
    order = an_order(graphs.version_of(content), folder=tmp_path, settings=settings)
    (tmp_path / "model.onnx").write_bytes(content)
    return ApplicationPlan(order, min_replicas=2, max_replicas=2)


@pytest.fixture
def engine() -> Iterator[LocalEngine]:
    engine = LocalEngine(load=OnnxSession.load, clock=SystemClock())
    yield engine
    engine.disconnect()


def wait_for(engine: LocalEngine, plan: ApplicationPlan, state: State) -> None:
    clock = SystemClock()
    end_ns = clock.monotonic_ns() + 20_000_000_000
    while engine.report()[plan.name].state != state:
        assert clock.monotonic_ns() < end_ns
        clock.sleep(0.01)


def test_replicas_tell_their_phases_and_then_take_leases(
    engine: LocalEngine, plan: ApplicationPlan, control: ControlRecorder
) -> None:
    """loading, warming, lease: in this order, with the secret of the data directory."""
    engine.deploy([plan])
    wait_for(engine, plan, "running")
    name = control.received[0].path.rpartition("/")[2]
    lease = control.wait_for("PUT", f"/internal/endpoints/{name}")
    mine = [each for each in control.received if each.path.endswith(name)]

    phases = [msgspec.json.decode(each.body, type=PhaseReport).phase for each in mine[:2]]
    renewal = msgspec.json.decode(lease.body, type=Renewal)
    assert phases == ["loading", "warming"]
    assert lease is mine[2] or lease.path == mine[2].path
    assert f"Bearer {internal_secret(Path(plan.order.keys))}" == lease.authorization
    assert (renewal.endpoint.model, renewal.endpoint.version) == ("model", "1")
    assert renewal.providers == ("CPUExecutionProvider",)
    assert renewal.statistics.rows >= 1


def test_each_replica_has_a_private_socket_that_goes_with_it(
    engine: LocalEngine, plan: ApplicationPlan, tmp_path: Path
) -> None:
    """Deleting an application gives the leases back and removes its sockets."""
    engine.deploy([plan])
    wait_for(engine, plan, "running")
    sockets = list(tmp_path.glob("*.sock"))
    modes = {path.stat().st_mode & 0o777 for path in sockets}

    engine.delete(plan.name)

    assert (2, {0o600}) == (len(sockets), modes)
    assert list(tmp_path.glob("*.sock")) == []
    assert engine.report() == {}


def test_deleted_replicas_say_goodbye(
    engine: LocalEngine, plan: ApplicationPlan, control: ControlRecorder
) -> None:
    """Gateways hear of it from control, not by running into a closed socket."""
    engine.deploy([plan])
    wait_for(engine, plan, "running")

    engine.delete(plan.name)

    goodbyes = [each for each in control.received if each.method == "DELETE"]
    assert len({each.path for each in goodbyes}) == 2


def test_artifact_that_was_changed_is_not_run(
    engine: LocalEngine, plan: ApplicationPlan, tmp_path: Path, control: ControlRecorder
) -> None:
    """The digest of the bytes that are loaded decides; no lease is ever taken."""
    (tmp_path / "model.onnx").write_bytes(graphs.doubling() + b" ")

    engine.deploy([plan])
    wait_for(engine, plan, "failed")

    assert "has the SHA-256" in engine.report()[plan.name].message
    assert [each for each in control.received if "endpoints" in each.path] == []


def test_unknown_application_can_be_deleted(engine: LocalEngine) -> None:
    """Every step can be repeated without harm."""
    engine.delete("m:absent@1~0")

    assert engine.report() == {}
