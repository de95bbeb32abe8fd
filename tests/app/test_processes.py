from pathlib import Path

import pytest

from serving.app.directory import DataDirectory
from serving.app.processes import plan_children
from serving.engine_settings import InferenceSettings, RaySettings
from serving.port_settings import HttpSettings
from serving.settings import Settings


@pytest.fixture
def directory(tmp_path: Path) -> DataDirectory:
    return DataDirectory.at(tmp_path)


def modules_of(settings: Settings, directory: DataDirectory) -> list[tuple[str, str]]:
    plans = plan_children(settings, directory)
    return [(plan.name, plan.module.removeprefix("serving.app.")) for plan in plans]


def test_embedded_ray_has_a_head_of_its_own(directory: DataDirectory) -> None:
    """The cluster is held by a process that nobody needs to restart."""
    settings = Settings(http=HttpSettings(workers=2))

    assert modules_of(settings, directory) == [
        ("head", "head"),
        ("control", "control"),
        ("gateway-0", "worker"),
        ("gateway-1", "worker"),
        ("ledger", "ledger"),
        ("monitor", "monitor"),
    ]


def test_cluster_of_the_operators_needs_no_head(directory: DataDirectory) -> None:
    """With `ray.address` nothing of Ray is started here."""
    settings = Settings(ray=RaySettings(address="10.0.0.1:6379"))

    assert modules_of(settings, directory) == [
        ("control", "control"),
        ("gateway-0", "worker"),
        ("ledger", "ledger"),
        ("monitor", "monitor"),
    ]


def test_local_engine_never_loads_ray(directory: DataDirectory) -> None:
    """The control process without Ray is another module."""
    settings = Settings(inference=InferenceSettings(engine="local"))

    assert modules_of(settings, directory) == [
        ("control", "local_control"),
        ("gateway-0", "worker"),
        ("ledger", "ledger"),
        ("monitor", "monitor"),
    ]


def test_embedded_ray_gets_a_token_and_stays_on_loopback(directory: DataDirectory) -> None:
    """Every process that imports Ray is told to ask for the token of this directory."""
    head, control, gateway, ledger, monitor = plan_children(Settings(), directory)

    assert head.environment == control.environment
    assert ("token", str(directory.ray_token_file), "0") == tuple(
        head.environment[name]
        for name in (
            "RAY_AUTH_MODE",
            "RAY_AUTH_TOKEN_PATH",
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER",
        )
    )
    assert len(directory.ray_token_file.read_text()) == 64
    others = {**gateway.environment, **ledger.environment, **monitor.environment}
    assert not [name for name in others if name.startswith("RAY")]


def test_gateway_workers_give_large_bodies_back(directory: DataDirectory) -> None:
    """Their allocator keeps no large block for later; other processes choose for themselves."""
    plans = plan_children(Settings(), directory)

    told = {plan.name for plan in plans if "MALLOC_MMAP_THRESHOLD_" in plan.environment}

    assert told == {"gateway-0"}


def test_cluster_of_the_operators_keeps_its_own_authentication(directory: DataDirectory) -> None:
    """Nothing about tokens is set for a cluster that somebody else runs."""
    control, *_ = plan_children(Settings(ray=RaySettings(address="10.0.0.1:6379")), directory)

    assert not [name for name in control.environment if "AUTH" in name]


def test_ledger_and_monitor_get_what_nobody_else_wants(directory: DataDirectory) -> None:
    """What works on records after the answer has the lowest priority; nothing else does."""
    plans = plan_children(Settings(), directory)

    assert [plan.name for plan in plans if plan.idle] == ["ledger", "monitor"]
