"""Makes a bare clone runnable: an environment in `.venv`, then the same command inside it.

Standard library only. `python3 -m serving up` in a fresh clone finds no dependencies; it then makes
`.venv` beside `pyproject.toml`, installs the locked packages (or, where the lock does not fit, what
`pyproject.toml` allows) and the clone itself, and runs itself again there. A stamp with a hash of the
lock and of `pyproject.toml` says that the environment is complete and up to date. An installed
package is never touched.
"""

import hashlib
import importlib.util
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

CLONE = Path(__file__).resolve().parents[1]
LOCK = Path("configs") / "requirements.lock"
LOCKED_FOR = ("Linux", "x86_64", "CPython", (3, 11))
PROBES = {"": ("typer", "ray", "onnxruntime"), "dev": ("typer", "ray", "onnxruntime", "pytest")}


def ensure(extra: str = "") -> None:
    """Returns when the dependencies are there; otherwise installs them and starts anew in `.venv`.

    extra: of `pyproject.toml`; "dev" for tests. Exits when the installation does not succeed.
    """
    absent = missing(PROBES[extra])
    if not absent or not (CLONE / "pyproject.toml").exists():
        return
    inside = Path(sys.prefix) == CLONE / ".venv"
    if not is_complete(CLONE, extra):
        install(CLONE, extra)
    elif inside:
        sys.exit(f"serving: .venv lacks {', '.join(absent)}; delete .venv and start again")
    python = str(environment_python(CLONE))
    # The arguments are this process' own; nothing from outside is added to them.
    os.execv(python, [python, "-m", *module_arguments()])  # noqa: S606


def missing(packages: Sequence[str]) -> list[str]:
    """Those that this interpreter cannot import."""
    return [name for name in packages if importlib.util.find_spec(name) is None]


def module_arguments() -> list[str]:
    """The module that was started with `-m`, and its arguments."""
    started = getattr(sys.modules["__main__"], "__spec__", None)
    name = started.name.removesuffix(".__main__") if started else "serving"
    return [name, *sys.argv[1:]]


def environment_python(clone: Path) -> Path:
    return clone / ".venv" / "bin" / "python"


def commands(
    clone: Path, extra: str, *, lock_fits: bool, python: str
) -> list[tuple[str, list[str]]]:
    """What to run, each with a line that says what it does."""
    pip = [str(environment_python(clone)), "-m", "pip", "install", "--quiet"]
    create = ("making .venv", [python, "-m", "venv", str(clone / ".venv")])
    itself = f"{clone}[{extra}]" if extra else str(clone)
    if lock_fits and (clone / LOCK).exists():
        locked = ["--require-hashes", "-r", str(clone / LOCK)]
        return [
            create,
            ("installing the locked packages; this takes minutes the first time", [*pip, *locked]),
            ("installing serving itself", [*pip, "--no-deps", "-e", str(clone)]),
            *([("installing what tests need", [*pip, "-e", itself])] if extra else []),
        ]
    return [
        create,
        ("installing packages; this takes minutes the first time", [*pip, "-e", itself]),
    ]


def this_platform() -> tuple[str, str, str, tuple[int, int]]:
    version = sys.version_info[:2]
    return platform.system(), platform.machine(), platform.python_implementation(), version


def install(clone: Path, extra: str) -> None:
    """Runs `commands`, one line of progress each, then leaves the stamp."""
    steps = commands(clone, extra, lock_fits=this_platform() == LOCKED_FOR, python=sys.executable)
    for number, (what, command) in enumerate(steps, start=1):
        sys.stderr.write(f"[{number}/{len(steps)}] {what}\n")
        sys.stderr.flush()
        # The build back-end warns about what an editable installation is; nobody here asked.
        quiet = {**os.environ, "PYTHONWARNINGS": "ignore"}
        status = subprocess.run(command, check=False, env=quiet).returncode  # noqa: S603 - our own
        if status:
            sys.stderr.write(f"serving: {what} failed; the command was: {' '.join(command)}\n")
            sys.exit(status)
    stamp = stamp_of(clone)
    for installed in {"", extra}:
        stamp_file(clone, installed).write_text(stamp)


def is_complete(clone: Path, extra: str) -> bool:
    """Whether `.venv` was made for this very lock and `pyproject.toml`, with this extra."""
    try:
        return stamp_file(clone, extra).read_text() == stamp_of(clone)
    except OSError:
        return False


def stamp_file(clone: Path, extra: str) -> Path:
    return clone / ".venv" / f"serving{extra and '-'}{extra}.stamp"


def stamp_of(clone: Path) -> str:
    """Changes when the lock or `pyproject.toml` does."""
    digest = hashlib.sha256()
    for name in (Path("pyproject.toml"), LOCK):
        file = clone / name
        digest.update(file.read_bytes() if file.exists() else b"")
    return digest.hexdigest()
