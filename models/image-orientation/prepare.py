"""Turns a picture of text into an inference request for `image-orientation`.

    python models/image-orientation/prepare.py PAGE.pgm [--turn 90] [--binary HEADER] > request

Numpy only, so it reads binary PGM and PPM (P5, P6; every image tool writes them). As the source
package does it: short side to 256, centre 224 x 224, channels in the order blue, green, red, scaled
to 0..1 and normalised. The package scales with Lanczos, this script bilinearly.

A row is 600 kB as raw bytes and several times that as JSON: `--binary HEADER` writes the protocol's
binary form and puts the value of `Inference-Header-Content-Length` into the file HEADER.
"""

import argparse
import json
import re
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

CLASSES: Final = (0, 90, 180, 270)
"""Degrees clockwise by which the picture is turned, in the order of the model's outputs."""
SHORT_SIDE: Final = 256
CROP: Final = 224
MEAN: Final = np.array([0.485, 0.456, 0.406], dtype=np.float32)
DEVIATION: Final = np.array([0.229, 0.224, 0.225], dtype=np.float32)
HEAD: Final = re.compile(rb"^(P5|P6)\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+(\d+)\s")
MAX_VALUE: Final = 255


def prepare(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    """One row, float32 (1, 3, 224, 224), of an image (height, width, 3) in red, green, blue."""
    scaled = _scale(image.astype(np.float32))
    top, left = ((size - CROP) // 2 for size in scaled.shape[:2])
    middle = scaled[top : top + CROP, left : left + CROP, ::-1]
    normal = (middle / MAX_VALUE - MEAN) / DEVIATION
    return np.ascontiguousarray(normal.transpose(2, 0, 1)[None], dtype=np.float32)


def read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels (height, width, 3). Raises ValueError when the file is no binary PGM or PPM."""
    content = path.read_bytes()
    head = HEAD.match(content)
    if head is None or int(head[4]) != MAX_VALUE:
        raise ValueError(f"{path} is no binary PGM or PPM with 8 bits a channel")
    channels = 1 if head[1] == b"P5" else 3
    width, height = int(head[2]), int(head[3])
    pixels = np.frombuffer(
        content, dtype=np.uint8, count=width * height * channels, offset=head.end()
    )
    return np.broadcast_to(pixels.reshape(height, width, channels), (height, width, 3))


def _scale(image: NDArray[np.float32]) -> NDArray[np.float32]:
    factor = SHORT_SIDE / min(image.shape[:2])
    for axis in (0, 1):
        size = image.shape[axis]
        new = round(size * factor)
        place = np.clip((np.arange(new, dtype=np.float32) + 0.5) / factor - 0.5, 0, size - 1)
        low = np.floor(place).astype(int)
        high = np.minimum(low + 1, size - 1)
        share = (place - low).reshape((-1, 1, 1) if axis == 0 else (1, -1, 1))
        image = image.take(low, axis) * (1 - share) + image.take(high, axis) * share
    return image


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("image", type=Path)
    parser.add_argument("--turn", type=int, choices=CLASSES, default=0, help="degrees clockwise")
    parser.add_argument("--binary", type=Path, metavar="HEADER")
    arguments = parser.parse_args()
    row = prepare(np.rot90(read_image(arguments.image), -arguments.turn // 90))
    tensor: dict[str, object] = {"name": "x", "shape": row.shape, "datatype": "FP32"}
    if arguments.binary is None:
        json.dump({"inputs": [{**tensor, "data": row.ravel().tolist()}]}, sys.stdout)
        return
    tensor["parameters"] = {"binary_data_size": row.nbytes}
    head = json.dumps({"inputs": [tensor]}).encode()
    arguments.binary.write_text(str(len(head)))
    sys.stdout.buffer.write(head + row.tobytes())


if __name__ == "__main__":
    main()
