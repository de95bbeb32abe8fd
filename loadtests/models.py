"""Makes the benchmark models M1 and M2 from a seed, byte for byte the same everywhere.

    python -m loadtests.models [FOLDER]      FOLDER: a models folder; `models/` when not named

Both are multilayer perceptrons with ReLU, `input` FP32 [rows, 64] to `output` FP32 [rows, 8]:

    bench-m1   64-256-256-8            0.17 MFLOP per row, 0.3 MB: measures the gateway
    bench-m2   64-2048-2048-2048-8     17 MFLOP per row, 34 MB: streams its weights at one row, so
                                       that batching pays several-fold

Reproducible: weights are uniform numbers straight from a seeded PCG64 stream (the normal
distribution would go through the machine's logarithm), the file is serialised deterministically,
and the result is compared with the SHA-256 in the specification before it replaces anything.
Weights are scaled after He et al. (2015), so outputs for inputs of unit variance stay near one.
"""

import argparse
import hashlib
import itertools
import shutil
import sys
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.registry.specification import FILE_NAME, read_specification

LAYERS: Final = {
    "bench-m1": (64, 256, 256, 8),
    "bench-m2": (64, 2048, 2048, 2048, 8),
}
SEEDS: Final = {"bench-m1": 1, "bench-m2": 2}
OPSET: Final = 18
IR_VERSION: Final = 9


def perceptron(name: str) -> bytes:
    """The serialised ONNX model of that name, a key of `LAYERS`."""
    stream = np.random.Generator(np.random.PCG64(SEEDS[name]))
    nodes, weights, flow = [], [], "input"
    pairs = list(itertools.pairwise(LAYERS[name]))
    for index, (fan_in, fan_out) in enumerate(pairs, 1):
        last = index == len(pairs)
        product = "output" if last else f"product{index}"
        weights += [
            numpy_helper.from_array(_uniform(stream, (fan_in, fan_out), fan_in), f"weight{index}"),
            numpy_helper.from_array(np.zeros(fan_out, dtype=np.float32), f"bias{index}"),
        ]
        nodes.append(helper.make_node("Gemm", [flow, f"weight{index}", f"bias{index}"], [product]))
        if not last:
            flow = f"layer{index}"
            nodes.append(helper.make_node("Relu", [product], [flow]))
    graph = helper.make_graph(
        nodes,
        name,
        [helper.make_tensor_value_info("input", TensorProto.FLOAT, ["rows", LAYERS[name][0]])],
        [helper.make_tensor_value_info("output", TensorProto.FLOAT, ["rows", LAYERS[name][-1]])],
        weights,
    )
    model: ModelProto = helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="loadtests.models",
    )
    return bytes(model.SerializeToString(deterministic=True))


def write(name: str, models_dir: Path) -> Path:
    """Writes the model of that name and its specification below `models_dir`; returns the artifact.

    Raises SystemExit, and writes nothing, when the bytes are not those that are specified.
    """
    specified = DEFAULT_MODELS_DIR / name / FILE_NAME
    (version,) = read_specification(specified).versions
    content = perceptron(name)
    digest = hashlib.sha256(content).hexdigest()
    if digest != version.sha256:
        raise SystemExit(
            f"{name} came out as {digest}, specified is {version.sha256}: this numpy "
            f"{np.__version__} or this onnx makes other bytes"
        )
    folder = models_dir / name
    folder.mkdir(parents=True, exist_ok=True)
    if folder.resolve() != specified.parent.resolve():
        shutil.copyfile(specified, folder / FILE_NAME)
    artifact = folder / version.file
    part = artifact.with_suffix(".part")
    part.write_bytes(content)
    return part.replace(artifact)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("folder", type=Path, nargs="?", default=DEFAULT_MODELS_DIR)
    folder: Path = parser.parse_args().folder
    for name in LAYERS:
        sys.stdout.write(f"{write(name, folder)}\n")


def _uniform(
    stream: np.random.Generator, shape: tuple[int, int], fan_in: int
) -> NDArray[np.float32]:
    bound = np.float32(np.sqrt(6 / fan_in))
    return (stream.random(shape, dtype=np.float32) * 2 - 1) * bound


if __name__ == "__main__":
    main()
