"""Whether a model answers as the one it was made from: compared with answers that were recorded there.

A file of arrays, as `.npz` without object arrays (`input:NAME`, `output:NAME`) or as JSON in the
protocol's form: {"inputs": [{"name", "shape", "datatype", "data"}], "outputs": [...]}; JSON has no
NaN, so `null` stands for it. Put rows with NaN and with the ends of every range in it: that is where
conversions differ.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import msgspec
import numpy as np

from serving.core.models import ModelVersion
from serving.core.tensors import Array, TensorSpecification, numbers
from serving.errors import ModelFailed, OutputInvalid
from serving.inference.merging import Run
from serving.inference.reports import Parity, Rejected

RELATIVE: Final = 1e-5
ABSOLUTE: Final = 1e-6
"""Conversions were measured to differ by 3e-7."""
MAX_ROWS: Final = 100_000
_BATCH_ROWS: Final = 256


class _Tensor(msgspec.Struct, frozen=True):
    name: str
    shape: list[int]
    datatype: str
    data: list[Any]


class _Answers(msgspec.Struct, frozen=True):
    inputs: list[_Tensor]
    outputs: list[_Tensor]


def measure_parity(run: Run, version: ModelVersion, file: Path) -> Parity:
    """Runs every row of the file. Raises Rejected for one that cannot be read or run."""
    arrays = _read(file)
    inputs = [_taken(arrays, "input", tensor) for tensor in version.inputs]
    expected = [_taken(arrays, "output", tensor) for tensor in version.outputs]
    rows = len(inputs[0])
    if not 0 < rows <= MAX_ROWS or any(len(each) != rows for each in (*inputs, *expected)):
        raise Rejected("parity", f"all its arrays need the same number of rows, 1 to {MAX_ROWS}")
    size = min(_BATCH_ROWS, version.batching.max_batch_size) if version.batched else 1
    special = np.zeros(rows, bool)
    differing = np.zeros(rows, bool)
    largest = 0.0
    for start in range(0, rows, size):
        part = slice(start, start + size)
        try:
            found = run([each[part] for each in inputs])
        except (ModelFailed, OutputInvalid) as error:
            raise Rejected("parity", f"rows {start} and after fail: {error.message}") from error
        for answer, wanted in zip(found, (each[part] for each in expected), strict=True):
            differs, worst = _differences(answer, wanted)
            differing[part] |= differs
            largest = max(largest, worst)
    for array in inputs:
        if array.dtype.kind == "f":
            special |= ~np.isfinite(array.reshape(rows, -1)).all(axis=1)
    return Parity(rows, int(special.sum()), int(differing.sum()), largest, RELATIVE)


def _differences(answer: Array, wanted: Array) -> tuple[Array, float]:
    """Which rows differ, and the largest difference of two finite numbers."""
    if answer.shape != wanted.shape:
        raise Rejected("parity", f"answers have shape {answer.shape}, expected are {wanted.shape}")
    rows = len(answer)
    if answer.dtype.kind in "OSUb":
        return np.asarray((answer != wanted).reshape(rows, -1).any(axis=1)), 0.0
    one, other = (numbers(each).astype(np.float64).reshape(rows, -1) for each in (answer, wanted))
    equal = np.isclose(one, other, rtol=RELATIVE, atol=ABSOLUTE, equal_nan=True)
    finite = np.isfinite(one) & np.isfinite(other)
    gaps = np.abs(one[finite] - other[finite])
    return np.asarray(~equal.all(axis=1)), float(gaps.max()) if gaps.size else 0.0


def _read(file: Path) -> Mapping[str, Array]:
    if file.suffix == ".npz":
        try:
            with np.load(file, allow_pickle=False) as arrays:
                return {name: arrays[name] for name in arrays.files}
        except (ValueError, OSError, zipfile.BadZipFile, EOFError, KeyError) as error:
            raise Rejected("parity", "its file is no .npz of plain arrays") from error
    try:
        answers = msgspec.json.decode(file.read_bytes(), type=_Answers)
        found = {f"input:{each.name}": _array(each) for each in answers.inputs}
        return found | {f"output:{each.name}": _array(each) for each in answers.outputs}
    except (msgspec.DecodeError, ValueError, TypeError, KeyError, UnicodeDecodeError) as error:
        raise Rejected("parity", f"its file is not of the form: {str(error)[:200]}") from error


def _array(tensor: _Tensor) -> Array:
    if tensor.datatype == "BYTES":
        values = np.empty(len(tensor.data), object)
        values[:] = [str(each).encode() for each in tensor.data]
        return values.reshape(tensor.shape)
    data = [np.nan if each is None else each for each in tensor.data]
    spec = TensorSpecification(tensor.name, tensor.datatype, ())
    return np.asarray(data).astype(spec.dtype).reshape(tensor.shape)


def _taken(arrays: Mapping[str, Array], kind: str, tensor: TensorSpecification) -> Array:
    array = arrays.get(f"{kind}:{tensor.name}")
    if array is None:
        raise Rejected("parity", f"its file has no array {kind}:{tensor.name}")
    if tensor.datatype == "BYTES" and array.dtype.kind in "SU":
        texts = array.astype("U").astype(object)
        return np.asarray(np.vectorize(str.encode, otypes=[object])(texts))
    if array.dtype != tensor.dtype:
        raise Rejected("parity", f"{kind}:{tensor.name} is {array.dtype}, not {tensor.datatype}")
    return np.ascontiguousarray(array)
