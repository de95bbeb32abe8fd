from pathlib import Path

import pytest

from serving import bootstrap


@pytest.fixture
def clone(tmp_path: Path) -> Path:
    """A clone with a lock and an empty environment."""
    (tmp_path / "pyproject.toml").write_text("[project]")
    (tmp_path / ".venv").mkdir()
    (tmp_path / "configs").mkdir()
    (tmp_path / bootstrap.LOCK).write_text("ray==2.60.0 --hash=sha256:0")
    return tmp_path


def installs(steps: list[tuple[str, list[str]]]) -> list[list[str]]:
    """What each `pip install` gets."""
    return [command[5:] for _, command in steps if "pip" in command]


def test_locked_packages_are_installed_by_hash_where_the_lock_fits(clone: Path) -> None:
    """Then the clone itself, without its dependencies."""
    steps = bootstrap.commands(clone, "", lock_fits=True, python="python3")

    assert ["python3", "-m", "venv", str(clone / ".venv")] == steps[0][1]
    assert [
        ["--require-hashes", "-r", str(clone / bootstrap.LOCK)],
        ["--no-deps", "-e", str(clone)],
    ] == installs(steps)


def test_tests_add_their_extra_to_the_locked_packages(clone: Path) -> None:
    """The lock holds the product; what tests need comes on top."""
    steps = bootstrap.commands(clone, "dev", lock_fits=True, python="python3")

    assert ["-e", f"{clone}[dev]"] == installs(steps)[-1]


@pytest.mark.parametrize("lock_fits", [True, False], ids=["no lock", "another platform"])
def test_elsewhere_the_project_file_decides(clone: Path, lock_fits: bool) -> None:
    """Without a lock that fits, pip resolves what `pyproject.toml` allows."""
    if lock_fits:
        (clone / bootstrap.LOCK).unlink()

    steps = bootstrap.commands(clone, "", lock_fits=lock_fits, python="python3")

    assert [["-e", str(clone)]] == installs(steps)


def test_environment_is_complete_only_for_its_very_lock(clone: Path) -> None:
    """A changed lock or project file means installing again."""
    bootstrap.stamp_file(clone, "").write_text(bootstrap.stamp_of(clone))
    before = bootstrap.is_complete(clone, "")
    (clone / bootstrap.LOCK).write_text("ray==2.61.0 --hash=sha256:0")

    assert (before, bootstrap.is_complete(clone, "")) == (True, False)


def test_environment_without_the_extra_is_not_complete_for_it(clone: Path) -> None:
    """Tests install what they need into the product's environment, once."""
    bootstrap.stamp_file(clone, "").write_text(bootstrap.stamp_of(clone))

    assert (
        bootstrap.is_complete(clone, ""),
        bootstrap.is_complete(clone, "dev"),
    ) == (True, False)


def test_only_absent_packages_are_missing() -> None:
    """What can be imported needs no installation."""
    assert bootstrap.missing(["json", "surely_absent"]) == ["surely_absent"]


def test_nothing_happens_where_everything_is_there() -> None:
    """The usual case returns at once."""
    bootstrap.ensure()


def test_module_uses_the_standard_library_only() -> None:
    """It runs before anything is installed."""
    source = Path(bootstrap.__file__).read_text()
    imported = {
        line.split()[1].partition(".")[0]
        for line in source.splitlines()
        if line.startswith(("import ", "from "))
    }

    assert set() == imported - {
        "hashlib", "importlib", "os", "platform", "subprocess", "sys", "collections", "pathlib",
    }  # fmt: skip
