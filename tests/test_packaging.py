"""What ships: the lock covers the dependencies, the image is lint-free, the worker stays light."""

import re
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml
from packaging.markers import Marker
from packaging.requirements import Requirement
from packaging.version import Version

from serving.telemetry import families
from serving.telemetry.metrics import Definition

ROOT = Path(__file__).resolve().parents[1]
LOCK = ROOT / "configs" / "requirements.lock"
RULES = ROOT / "configs" / "prometheus" / "rules.yml"
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

    status, output = run([str(program), str(ROOT / "Dockerfile")])

    assert (output, status) == ("", 0)


def test_rules_name_metrics_that_exist() -> None:
    """Every metric in an expression of `rules.yml` is a family that is exported or recorded."""
    rules = [
        rule for group in yaml.safe_load(RULES.read_text())["groups"] for rule in group["rules"]
    ]
    exported = {each.name for each in vars(families).values() if isinstance(each, Definition)}
    exported |= {f"{name}{suffix}" for name in exported for suffix in ("_bucket", "_count", "_sum")}
    exported |= {rule["record"] for rule in rules if "record" in rule}
    used = {
        name
        for rule in rules
        for name in re.findall(r"(?:[a-z]+:)?serving_\w+(?::\w+)?", rule["expr"])
    }

    assert used - exported == set()
    assert len(used) >= 5


def test_rules_and_scrape_configuration_are_accepted_by_prometheus() -> None:
    """promtool accepts the example scrape configuration and the rules beside it."""
    promtool = shutil.which("promtool")
    if promtool is None:
        pytest.skip("promtool is not installed (Debian package prometheus)")
    for arguments in (["check", "config", "prometheus.yml"], ["test", "rules", "rules_test.yml"]):
        status, output = run([promtool, *arguments], folder=RULES.parent)
        assert status == 0, output


def test_a_gateway_worker_imports_no_ray() -> None:
    """Importing the worker loads neither Ray nor a model runtime nor a web framework."""
    heavy = ("ray", "onnxruntime", "fastapi", "starlette", "uvicorn", "aiohttp", "pandas")
    program = f"import serving.app.worker, sys; print([n for n in {heavy} if n in sys.modules])"

    status, output = run([sys.executable, "-c", program])

    assert (output.strip(), status) == ("[]", 0)


def run(command: list[str], *, folder: Path = ROOT) -> tuple[int, str]:
    """Exit status and everything that the command wrote."""
    done = subprocess.run(  # noqa: S603 - the commands are those of this file
        command,
        cwd=folder,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout
