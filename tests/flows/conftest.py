"""The places in which every story is told."""

import pytest

from tests.instances import Instance
from tests.places import InProcess, Place


@pytest.fixture(params=["in_process", pytest.param("on_ray", marks=pytest.mark.ray)])
def place(request: pytest.FixtureRequest) -> Place:
    """Where a story is told: the same in this process and on a real local Ray."""
    if request.param == "in_process":
        here: InProcess = request.getfixturevalue("in_process")
        return here.place
    instance: Instance = request.getfixturevalue("ray_instance")
    return Place(instance.url, instance.data_dir)
