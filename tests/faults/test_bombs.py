"""AR-12, AR-13: bombs and endless models uploaded to a running product that goes on answering."""

import asyncio
from collections.abc import Iterator
from pathlib import Path

import pytest

from serving.client import RegistryClient
from serving.client.uploads import UploadState, upload_artifact
from serving.core.principals import Role
from serving.registry.entities import ModelFacts, RiskTier
from tests.control.test_inspecting import BOMBS
from tests.inference import graphs
from tests.instances import Instance
from tests.places import running

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]

SOON_S, PATIENT_S = 3.0, 200.0
"""For what never ends, and for what does: inspections give way to everything else on the machine."""


@pytest.fixture(scope="module")
def instance(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Instance]:
    limits = {"inspection_s": request.param}
    with Instance(tmp_path_factory.mktemp("bombs"), artifacts=limits) as instance:
        instance.expect("ready")
        with client_of(instance) as client:
            facts = ModelFacts(owner="ada", risk_tier=RiskTier.MINIMAL)
            client.register_model("target", facts)
        yield instance
        assert instance.stop() == 0
        assert instance.processes() == []


def client_of(instance: Instance) -> RegistryClient:
    return RegistryClient(instance.control_url, token=lambda: instance.token(Role.DEVELOPER))


def send(instance: Instance, file: Path, version: str) -> UploadState:
    with client_of(instance) as client:
        return upload_artifact(client, file, model="target", version=version)


def resident_bytes(instance: Instance) -> int:
    """Of the control process."""
    pid = running(instance.process.pid, "serving.app.local_control\0")[0]
    status = Path(f"/proc/{pid}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line[:6] == "VmRSS:") * 1024


@pytest.mark.parametrize(
    ("instance", "name", "codes"),
    [
        (PATIENT_S, "Range", {"out_of_memory"}),
        (PATIENT_S, "truncated", {"invalid_model"}),
        (PATIENT_S, "sound", {""}),
        (SOON_S, "endless", {"out_of_time"}),
    ],
    indirect=["instance"],
)
async def test_ar_12_ar_13_the_service_is_untouched_by_what_is_uploaded(
    name: str, codes: set[str], instance: Instance, tmp_path: Path
) -> None:
    """While a bomb is inspected every inference is answered, and control grows by nothing."""
    files = {
        "Range": BOMBS["Range"],
        "endless": graphs.endless(),
        "truncated": graphs.doubling()[:-9],
        "sound": graphs.doubling(),
    }
    file = tmp_path / "model.onnx"
    file.write_bytes(files[name])
    before = resident_bytes(instance)
    upload = asyncio.create_task(asyncio.to_thread(send, instance, file, name.lower()))
    answers = set()
    while not upload.done():
        answers.add((await asyncio.to_thread(instance.infer)).status_code)
    found = await upload
    assert answers == {200}
    assert found.code in codes
    assert found.stage == ("validated" if codes == {""} else "rejected")
    assert resident_bytes(instance) - before < 32 * 2**20
    assert not list((instance.data_dir / "inspections").iterdir())
