"""Turns files into inference requests for `file-type`, and answers into labels.

    python models/file-type/prepare.py FILE... > request.json

Standard library and numpy only. As the source package does it: the first and the last 4,096 bytes
are stripped of white space at their outer end, then 1,024 integers come from each; 256 pads. Files
under 8 bytes are not for this model, nor are answers with a confidence under 0.5.
"""

import argparse
import json
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

BLOCK_BYTES: Final = 4096
SIDE: Final = 1024
PADDING: Final = 256
MIN_BYTES: Final = 8
MIN_CONFIDENCE: Final = 0.5
LABELS: Final[list[str]] = json.loads((Path(__file__).parent / "labels.json").read_text())


def prepare(contents: list[bytes]) -> NDArray[np.int32]:
    """One row per file, int32 (files, 2048). Raises ValueError for a file without enough bytes."""
    return np.stack([_row(content) for content in contents])


def label(scores: NDArray[np.float32]) -> tuple[str, float]:
    """The best label of one row of `target_label` and its confidence; `unknown` under 0.5."""
    best = int(scores.argmax())
    confidence = float(scores[best])
    return (LABELS[best] if confidence >= MIN_CONFIDENCE else "unknown"), confidence


def _row(content: bytes) -> NDArray[np.int32]:
    start = content[:BLOCK_BYTES].lstrip()[:SIDE]
    end = content[-BLOCK_BYTES:].rstrip()[-SIDE:]
    if len(start) < MIN_BYTES:
        raise ValueError(
            f"{len(start)} bytes that are not white space; at least {MIN_BYTES} needed"
        )
    row = np.full(2 * SIDE, PADDING, dtype=np.int32)
    row[: len(start)] = np.frombuffer(start, dtype=np.uint8)
    row[2 * SIDE - len(end) :] = np.frombuffer(end, dtype=np.uint8)
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", type=Path, nargs="+")
    files: list[Path] = parser.parse_args().files
    rows = prepare([file.read_bytes() for file in files])
    tensor = {
        "name": "bytes",
        "shape": rows.shape,
        "datatype": "INT32",
        "data": rows.ravel().tolist(),
    }
    json.dump({"inputs": [tensor]}, sys.stdout)


if __name__ == "__main__":
    main()
