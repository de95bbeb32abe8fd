from pathlib import Path

import msgspec
import pytest

from serving.engine_settings import InferenceSettings
from serving.inference.plans import ApplicationPlan, ReplicaOrder, key_of, socket_path
from serving.settings import Settings
from tests.plans import a_plan, a_version, an_order

PLAN = a_plan()
CHANGES: list[ApplicationPlan] = [
    msgspec.structs.replace(PLAN, max_replicas=2),
    msgspec.structs.replace(PLAN, num_gpus=0.5),
    msgspec.structs.replace(PLAN, order=an_order(a_version(), folder=Path("/elsewhere"))),
    msgspec.structs.replace(PLAN, order=msgspec.structs.replace(PLAN.order, instance="next")),
    msgspec.structs.replace(
        PLAN,
        order=an_order(a_version(), settings=Settings(inference=InferenceSettings(threads=2))),
    ),
]


def test_name_says_model_and_version_and_is_stable() -> None:
    """Equal plans have equal names, in this process and in the next."""
    assert PLAN.name == a_plan().name
    assert PLAN.name.startswith("m:doubler@1~")
    assert "doubler@1" == key_of(PLAN.name) == PLAN.key


@pytest.mark.parametrize("changed", CHANGES)
def test_any_change_that_a_replica_could_notice_changes_the_name(changed: ApplicationPlan) -> None:
    """A different plan is a different application, never the same one redeployed."""
    assert PLAN.name != changed.name
    assert PLAN.key == key_of(changed.name)


def test_order_survives_the_way_through_ray_as_text() -> None:
    """What a replica decodes is what control encoded, settings included."""
    settings = Settings(inference=InferenceSettings(device="cpu"))
    order = an_order(a_version(), settings=settings)

    decoded = ReplicaOrder.decode(order.encode())

    assert order == decoded
    assert settings == decoded.effective_settings()


def test_socket_is_named_for_its_replica() -> None:
    """Two replicas never share a socket."""
    order = an_order(a_version(), folder=Path("/run"))

    assert Path("/run/a1.sock") == socket_path(order, "a1")
