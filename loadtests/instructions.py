"""How many instructions the data plane's steps take: the guard that noise cannot hide behind.

    python -m loadtests.instructions            compare with the figures on record
    python -m loadtests.instructions --record   put today's in their place (say why in the commit)

Callgrind (Debian package valgrind) counts; it gives the same figure on a busy machine as on an idle
one. A step may take `MARGIN` more than is on record; the exit status is 1 if one takes more. Counts
belong to a build of Python and of its libraries: with another one they are shown and not judged.
"""

import argparse
import json
import os
import platform
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Final

from loadtests.instruction_steps import ROWS, RUNS, steps

RECORD: Final = Path(__file__).with_suffix(".json")
MARGIN: Final = 0.03
LIBRARIES: Final = ("numpy", "msgspec", "orjson", "google-crc32c")
FEATURES: Final = ("sse4_2", "avx", "avx2", "bmi2", "fma", "f16c", "erms", "avx512f")
"""Of the processor, by which libraries choose between ways to do the same."""
TIMEOUT_S: Final = 300


@dataclass(frozen=True, slots=True)
class Counts:
    """Instructions for one request in a frame of `ROWS`. build: what they were counted with."""

    build: str
    steps: Mapping[str, int]

    def worse_than(self, before: "Counts") -> dict[str, float]:
        """Steps that take more than the margin permits, and by what share."""
        growth = {
            name: count / before.steps[name] - 1
            for name, count in self.steps.items()
            if name in before.steps
        }
        return {name: share for name, share in growth.items() if share > MARGIN}


def build() -> str:
    """Python, as it was built, the libraries whose code is in the counts, and what they find to use."""
    python = f"{platform.python_implementation()} {platform.python_version()}"
    made = " ".join(platform.python_build())
    known = set(Path("/proc/cpuinfo").read_text().split())
    features = " ".join(feature for feature in FEATURES if feature in known)
    libraries = [f"{name} {version(name)}" for name in LIBRARIES]
    return ", ".join([python, made, platform.python_compiler(), *libraries, features])


def count() -> Counts:
    """Runs all steps below callgrind. Raises FileNotFoundError without one."""
    valgrind = shutil.which("valgrind")
    if valgrind is None:
        raise FileNotFoundError("valgrind is not installed (Debian package valgrind)")
    with tempfile.TemporaryDirectory(prefix="callgrind-") as folder:
        out = Path(folder) / "out"
        command = [
            valgrind, "--tool=callgrind", f"--callgrind-out-file={out}", "--dump-before=getpgid",
            sys.executable, "-m", "loadtests.instruction_steps",
        ]  # fmt: skip
        subprocess.run(  # noqa: S603 - our own module below a program of the system
            command,
            check=True,
            capture_output=True,
            timeout=TIMEOUT_S,
            env={**os.environ, "PYTHONHASHSEED": "0", "OPENBLAS_NUM_THREADS": "1"},
        )
        # A cut before and one after each step: the even dumps are the steps.
        names = list(steps())
        totals = [total(out.with_name(f"out.{2 * i + 2}")) for i in range(len(names))]
    floor = totals[0]
    per_request = [round((each - floor) / RUNS / ROWS) for each in totals]
    return Counts(build(), dict(zip(names[1:], per_request[1:], strict=True)))


def total(dump: Path) -> int:
    """The instructions in one dump of callgrind's."""
    for line in dump.read_text().splitlines():
        if line.startswith("totals:"):
            return int(line.split()[1])
    raise ValueError(f"{dump.name} has no totals: callgrind was cut short")


def load() -> Counts:
    """The figures on record."""
    found = json.loads(RECORD.read_text())
    return Counts(found["build"], found["steps"])


def table(now: Counts, before: Counts) -> str:
    """One line for each step."""
    lines = [f"{'step':<16}{'instructions':>13}{'on record':>11}{'change':>9}"]
    for name, instructions in now.steps.items():
        known = before.steps.get(name)
        change = f"{(instructions / known - 1) * 100:+.1f} %" if known else "new"
        lines.append(f"{name:<16}{instructions:>13,}{known or 0:>11,}{change:>9}")
    return "\n".join(lines)


def say(line: str) -> None:
    sys.stdout.write(line + "\n")


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit status."""
    parser = argparse.ArgumentParser(
        prog="python -m loadtests.instructions", description=__doc__.split("\n", 1)[0]
    )
    parser.add_argument("--record", action="store_true", help="put the figures on record")
    options = parser.parse_args(arguments)
    now = count()
    if options.record:
        RECORD.write_text(json.dumps({"build": now.build, "steps": now.steps}, indent=2) + "\n")
    before = load()
    say(table(now, before))
    if now.build != before.build:
        say(f"not judged: counted with {now.build}; on record is {before.build}")
        return 0
    worse = now.worse_than(before)
    for name, share in worse.items():
        say(
            f"{name} takes {share:.1%} more instructions than on record; {MARGIN:.0%} are permitted"
        )
    return 1 if worse else 0


if __name__ == "__main__":
    sys.exit(main())
