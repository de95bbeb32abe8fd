import os
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.app.directory import DataDirectory
from serving.app.location import read_location
from serving.inference.environment import ray_environment
from tests.instances import Instance
from tests.load import Callers
from tests.places import Place

pytestmark = [pytest.mark.ray, pytest.mark.faults, pytest.mark.timeout(300)]

FILLER = textwrap.dedent(
    """
    import logging, sys
    import numpy as np
    import ray

    ray.init(address=sys.argv[1], log_to_driver=False, logging_level=logging.ERROR)
    kept = [ray.put(np.full(16 << 20, 7, np.uint8)) for _ in range(12)]
    sys.stdout.write("full\\n")
    sys.stdout.flush()
    sys.stdin.read()
    """
)
"""Keeps 192 MiB of objects in a store of 75 MiB, until its input ends."""
OBJECT_BYTES = 16 << 20


@pytest.fixture
def spilled(ray_instance: Instance, tmp_path: Path) -> Iterator[int]:
    """The store is full meanwhile; the bytes of the largest file that Ray wrote for it."""
    directory = DataDirectory.at(ray_instance.data_dir)
    location = read_location(directory.ray_file)
    assert location is not None
    errors = tmp_path / "errors"
    with (
        errors.open("wb") as said,
        subprocess.Popen(  # noqa: S603 - our own script
            [sys.executable, "-c", FILLER, location.address],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=said,
            env=os.environ | ray_environment(token_file=directory.ray_token_file),
            cwd=tmp_path,
        ) as filler,
    ):
        assert filler.stdout is not None
        assert filler.stdout.readline() == b"full\n", errors.read_text()
        files = [path for path in Path(location.temporary).rglob("*") if path.is_file()]
        yield max(path.stat().st_size for path in files if "spill" in str(path))
        filler.communicate(b"")


async def test_ft_14_full_object_store_stops_no_prediction(
    ray_instance: Instance, spilled: int
) -> None:
    """Rows never go through it: while Ray's store is full and spills, all is answered and recorded."""
    place = Place(ray_instance.url, ray_instance.data_dir)
    async with Callers(place, "doubler") as load:
        await load.acknowledged(50)

    assert spilled >= OBJECT_BYTES
    assert (load.ledger.refused, load.ledger.cut) == ({}, 0)
    load.ledger.reconcile(place.data_dir / "log")
