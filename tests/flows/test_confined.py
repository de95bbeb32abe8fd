"""The product as a strict container runs it."""

import json
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.confinement import NOBODY, confined, inside_of, require_confinement
from tests.instances import ROW, Instance

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

_ASK = """
import json, sys, urllib.request
url, token, body = sys.argv[1:]
headers = {"Authorization": "Bearer " + token, "Content-Type": "application/json"}
asked = urllib.request.Request(url, body.encode(), headers)
print(urllib.request.build_opener(urllib.request.ProxyHandler({})).open(asked).status)
"""


@pytest.fixture
def folder() -> Iterator[Path]:
    """A folder that others may enter, unlike those of the tests."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name)
        path.chmod(0o755)
        for each in ("data", "scratch"):
            (path / each).mkdir(mode=0o700)
        yield path


def writable_places(pid: int) -> set[str]:
    """Where a process could write, but for devices and the kernel's own files."""
    lines = Path(f"/proc/{pid}/mountinfo").read_text().splitlines()
    options = {line.split()[4]: line.split()[5].split(",") for line in lines}
    return {
        place
        for place, said in options.items()
        if "rw" in said and not place.startswith(("/proc", "/dev"))
    }


def test_op_07_nobody_on_a_read_only_system_without_a_network(folder: Path) -> None:
    """It starts, answers, records and stops; what it wrote lies in its data directory and is its own."""
    require_confinement()
    instance = Instance(folder)
    instance.command = confined(
        instance.command, data_dir=instance.data_dir, scratch=folder / "scratch"
    )
    tensor = {"name": "input", "shape": [1, len(ROW)], "datatype": "FP32", "data": ROW}
    with instance:
        instance.expect("ready")
        pid = instance.process.pid
        status = Path(f"/proc/{pid}/status").read_text()
        writable = writable_places(pid)
        asked = inside_of(
            pid,
            [
                sys.executable,
                "-c",
                _ASK,
                f"{instance.url}/v2/models/census-employment/infer",
                instance.token(),
                json.dumps({"inputs": [tensor]}),
            ],
        )
        ended = instance.stop()

    assert writable == {str(instance.data_dir)}
    assert "CapEff:\t0000000000000000" in status
    assert (asked.stdout.strip(), ended) == ("200", 0)
    written = [each for each in instance.data_dir.rglob("*") if each.is_file()]
    assert any(each.suffix == ".segment" for each in written)
    assert {each.stat().st_uid for each in written} == {NOBODY}
