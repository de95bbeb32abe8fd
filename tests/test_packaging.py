"""What ships: the lock covers the dependencies, the image is lint-free, the worker stays light."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import Version

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "configs" / "requirements.lock"
PLATFORM = {
    "sys_platform": "linux",
    "platform_machine": "x86_64",
    "platform_system": "Linux",
    "python_version": "3.11",
    "implementation_name": "cpython",
}


def locked() -> dict[str, Version]:
    """Package name to the version that the lock pins."""
    pins = re.findall(r"^([a-z0-9-]+)(?:\[[a-z,]+\])?==([^\s;\\]+)", LOCK.read_text(), re.M)
    return {name: Version(version) for name, version in pins}


def wanted() -> list[Requirement]:
    """The dependencies of the product on the platform that the lock is for."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    requirements = [Requirement(text) for text in project["dependencies"]]

    def applies(marker: Marker | None) -> bool:
        return marker is None or marker.evaluate(PLATFORM)

    return [requirement for requirement in requirements if applies(requirement.marker)]


def test_the_lock_satisfies_every_dependency() -> None:
    """Each dependency of `pyproject.toml` is pinned to a version that it permits."""
    pins = locked()

    unmet = [str(want) for want in wanted() if not want.specifier.contains(pins[want.name.lower()])]
    assert unmet == []


def test_the_lock_has_hashes_and_no_addresses() -> None:
    """Every pin has a SHA-256; no index, no file and no machine is named."""
    text = LOCK.read_text()

    entries = re.split(r"\n(?=[a-z0-9])", text)[1:]
    assert [entry.split()[0] for entry in entries if "--hash=sha256:" not in entry] == []
    assert not re.search(r"://|--index-url|--find-links|--extra-index|file:", text)


def test_only_one_build_of_the_runtime_is_locked() -> None:
    """The CPU and the GPU build install the same files; the lock has exactly one of them."""
    assert len({"onnxruntime", "onnxruntime-gpu"} & locked().keys()) == 1


def test_the_image_definition_is_free_of_findings() -> None:
    """hadolint finds nothing in the Dockerfile."""
    program = Path(sys.executable).with_name("hadolint")
    if not program.exists():
        pytest.skip("hadolint is not installed beside this Python (extra `dev` has it)")

    found = subprocess.run([program, ROOT / "Dockerfile"], capture_output=True, check=False)

    assert (found.stdout, found.returncode) == (b"", 0)


def test_rules_and_scrape_configuration_are_accepted_by_prometheus() -> None:
    """promtool accepts the example scrape configuration and the rules beside it."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    folder = ROOT / "configs" / "prometheus"
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        checked = subprocess.run(
            [promtool, *arguments], cwd=folder, capture_output=True, check=False
        )
        assert checked.returncode == 0, checked.stderr + checked.stdout


def test_a_gateway_worker_imports_no_ray() -> None:
    """Importing the worker loads neither Ray nor a model runtime nor a web framework."""
    heavy = ("ray", "onnxruntime", "fastapi", "starlette", "uvicorn", "grpc", "aiohttp", "pandas")
    program = f"import serving.app.worker, sys; print([n for n in {heavy} if n in sys.modules])"

    loaded = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )

    assert loaded.stdout.strip() == "[]"
