"""Turns a picture into an inference request for `text-recognition`.

    python models/text-recognition/prepare.py PICTURE.ppm HEADER > request

Numpy only, so it reads binary PGM and PPM (P5, P6; every image tool writes them). The request is in the
protocol's binary form; the value of `Inference-Header-Content-Length` goes into the file HEADER.
"""

import json
import re
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

HEAD: Final = re.compile(rb"^(P5|P6)\s+(?:#.*\s+)*(\d+)\s+(\d+)\s+255\s")


def read_picture(content: bytes) -> NDArray[np.uint8]:
    """Height, width, and red, green, blue. Raises SystemExit for what is no such file."""
    head = HEAD.match(content)
    if head is None:
        raise SystemExit("a binary PGM or PPM with 8 bits per channel is read, and nothing else")
    width, height = int(head[2]), int(head[3])
    channels = 1 if head[1] == b"P5" else 3
    pixels = np.frombuffer(content, np.uint8, height * width * channels, head.end())
    whole = np.broadcast_to(pixels.reshape(height, width, channels), (height, width, 3))
    return np.ascontiguousarray(whole)


def encode(picture: NDArray[np.uint8]) -> tuple[bytes, int]:
    """A request body, and how much of it is JSON."""
    tensor = {
        "name": "picture",
        "datatype": "UINT8",
        "shape": list(picture.shape),
        "parameters": {"binary_data_size": picture.size},
    }
    head = json.dumps({"inputs": [tensor]}).encode()
    return head + picture.tobytes(), len(head)


def main(picture: Path, header: Path) -> None:
    body, json_bytes = encode(read_picture(picture.read_bytes()))
    header.write_text(f"{json_bytes}")
    sys.stdout.buffer.write(body)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
