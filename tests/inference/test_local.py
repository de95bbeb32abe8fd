from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from serving.access.keys import internal_secret
from serving.artifact_settings import ArtifactSettings
from serving.core.clock import SystemClock
from serving.engine_settings import InferenceSettings
from serving.inference.local import LocalEngine
from serving.inference.plans import ApplicationPlan, State
from serving.inference.registration import PhaseReport, Renewal
from serving.inference.session import OnnxSession
from serving.port_settings import ControlSettings
from serving.settings import Settings
from tests.inference import graphs
from tests.inference.recorders import ControlRecorder
from tests.places import wait_until
from tests.plans import an_order
from tests.releases import Vault, flip


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
        artifacts=ArtifactSettings(verify_s=0.02),
    )
    order = an_order(graphs.version_of(content), folder=tmp_path, settings=settings)
    return ApplicationPlan(Vault(tmp_path).order(order, content), min_replicas=2, max_replicas=2)


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


def test_refused_artifact_is_reported_and_not_run(
    engine: LocalEngine, plan: ApplicationPlan, tmp_path: Path, control: ControlRecorder
) -> None:
    """Control hears why; no lease is ever taken."""
    (sealed,) = tmp_path.glob("artifacts/*/*.sealed")
    flip(sealed)

    engine.deploy([plan])
    wait_for(engine, plan, "failed")

    reports = [msgspec.json.decode(each.body, type=PhaseReport) for each in control.received]
    assert "is damaged" in engine.report()[plan.name].message
    assert [(each.phase, each.serving) for each in reports] == [
        ("loading", False),
        ("refused", False),
    ]
    assert "is damaged" in reports[-1].reason
    assert [each for each in control.received if "endpoints" in each.path] == []


def test_replica_whose_release_is_withdrawn_leaves(
    engine: LocalEngine, plan: ApplicationPlan, control: ControlRecorder
) -> None:
    """Found while it runs: it says why, gives its lease back, and counts as failed."""
    engine.deploy([plan])
    wait_for(engine, plan, "running")

    Path(plan.order.release).unlink()
    wait_for(engine, plan, "failed")

    assert "there is no release" in engine.report()[plan.name].message
    wait_until(lambda: len([each for each in control.received if each.method == "DELETE"]) == 2)
    told = [each for each in control.received if each.path.startswith("/internal/phases")]
    last = msgspec.json.decode(told[-1].body, type=PhaseReport)
    assert (last.phase, last.serving) == ("refused", False)


def test_stored_artifact_damaged_while_it_runs_is_told_and_it_goes_on(
    engine: LocalEngine, plan: ApplicationPlan, control: ControlRecorder, tmp_path: Path
) -> None:
    """What runs is what was verified; what is stored can start nothing new."""
    engine.deploy([plan])
    wait_for(engine, plan, "running")
    (sealed,) = tmp_path.glob("artifacts/*/*.sealed")

    flip(sealed)
    wait_until(lambda: any(b"is damaged" in each.body for each in control.received))

    (told, *_) = [each for each in control.received if b"is damaged" in each.body]
    assert msgspec.json.decode(told.body, type=PhaseReport).serving
    assert engine.report()[plan.name].state == "running"
    assert [each for each in control.received if each.method == "DELETE"] == []


def test_unknown_application_can_be_deleted(engine: LocalEngine) -> None:
    """Every step can be repeated without harm."""
    engine.delete("m:absent@1~0")

    assert engine.report() == {}
