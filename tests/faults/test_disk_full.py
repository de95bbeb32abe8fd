import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.catalogue import TWIN, write_models
from tests.instances import Instance
from tests.load import Callers
from tests.places import Place, a_row, eventually, eventually_async

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

VOLUME_BYTES = 16 * 1024 * 1024
CHUNK_BYTES = 64 * 1024
RETURN_S = 5.0


class Volume:
    """A small file system of its own."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._filler = path / "filler"

    def fill(self) -> None:
        """Takes all space that is left."""
        with self._filler.open("ab", buffering=0) as filler:
            try:
                while filler.write(bytes(CHUNK_BYTES)):
                    pass
            except OSError:
                return

    def free(self) -> None:
        self._filler.unlink()


@pytest.fixture
def volume(tmp_path: Path) -> Iterator[Volume]:
    if shutil.which("mount") is None:
        pytest.skip("there is no `mount` here to make a small file system with")
    path = tmp_path / "volume"
    path.mkdir()
    options = f"size={VOLUME_BYTES},mode=0700"
    mounted = subprocess.run(  # noqa: S603 - our own path
        ["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(path)],  # noqa: S607 - wherever it is
        capture_output=True,
        text=True,
        check=False,
    )
    if mounted.returncode:
        pytest.skip(f"a small file system cannot be mounted here: {mounted.stderr.strip()}")
    yield Volume(path)
    subprocess.run(["umount", str(path)], check=True)  # noqa: S603, S607


@pytest.fixture(params=[0, 1024 * 1024], ids=["to the last byte", "with a reserve"])
def instance(request: pytest.FixtureRequest, tmp_path: Path, volume: Volume) -> Iterator[Instance]:
    """Everything it writes is on the volume."""
    models = write_models(tmp_path / "models")
    log = {"segment_bytes": 1024 * 1024, "min_free_bytes": request.param}
    with Instance(
        tmp_path, deployments=[TWIN], models_dir=models, data_dir=volume.path, log=log
    ) as instance:
        instance.expect("ready")
        yield instance


async def test_full_disk_stops_answers_until_there_is_space(
    instance: Instance, volume: Volume
) -> None:
    """Full: 503 with a code and a time, not ready, nothing lost. Space: serving again, unasked."""
    place = Place(instance.url, instance.data_dir)
    async with place.client() as client:

        async def serves() -> bool:
            return (await client.post("/v2/models/twin/infer", json=a_row(-1))).is_success

        async with Callers(place, "twin") as load:
            await load.acknowledged(100)
            volume.fill()
            await eventually(lambda: load.ledger.refused["log_storage_full"] > 20)
        refused = await client.post("/v2/models/twin/infer", json=a_row(-1))
        ready = await client.get("/v2/health/ready")
        live = await client.get("/v2/health/live")
        volume.free()
        await eventually_async(serves, within_s=RETURN_S)
        async with Callers(place, "twin") as later:
            await later.acknowledged(100)

    assert (refused.status_code, refused.json()["code"]) == (503, "log_storage_full")
    assert int(refused.headers["retry-after"]) >= 1
    assert (ready.status_code, ready.json()["code"]) == (503, "not_ready")
    assert live.status_code == httpx.codes.OK
    assert set(load.ledger.refused) == {"log_storage_full"}
    assert later.ledger.refused == {}
    assert instance.stop() == 0
    for ledger in (load.ledger, later.ledger):
        ledger.reconcile(instance.data_dir / "log")
