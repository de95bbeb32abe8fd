"""Tensors of the data plane as values of ONNX Runtime, where the two differ.

- Strings: elements of BYTES are UTF-8 here and `str` there. Bytes that are no UTF-8 fail their row.
- BF16: numpy has no such type, so the bits travel as they are, in and out, through bound values.
- A version that is not batched: its one row is the whole tensor, so the leading 1 that counts rows
  is taken off before a run and put back after it.
"""

import ctypes
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types; Any stops in this package

from serving.core.models import ModelVersion
from serving.core.tensors import DTYPES, Array, TensorSpecification

Execution = Callable[[Mapping[str, Array], Any], list[Array]]

_BFLOAT16: Final = 16
"""`TensorProto.BFLOAT16`."""


def holds_bits(version: ModelVersion) -> bool:
    """Whether a tensor of `version` has a datatype that numpy does not know."""
    return any(tensor.datatype == "BF16" for tensor in (*version.fed, *version.outputs))


def converting(version: ModelVersion, execute: Execution) -> Execution:
    """`execute` for tensors in the data plane's form; itself where that is the runtime's, too."""
    strings = any(tensor.datatype == "BYTES" for tensor in (*version.fed, *version.outputs))
    if version.batched and not strings:
        return execute

    def converted(feed: Mapping[str, Array], options: Any) -> list[Array]:
        values = {tensor.name: _to_runtime(feed[tensor.name], tensor) for tensor in version.fed}
        answers = execute(values, options)
        return [
            _from_runtime(answer, tensor)
            for answer, tensor in zip(answers, version.outputs, strict=True)
        ]

    return converted


def run_values(
    session: Any, names: Sequence[str], feed: Mapping[str, Array], options: Any
) -> list[Array]:
    """A run with bound values, on any device, in which BF16 keeps its bits."""
    binding = session.io_binding()
    for name, array in feed.items():
        binding.bind_ortvalue_input(name, _value(array))
    for name in names:
        binding.bind_output(name)
    session.run_with_iobinding(binding, options)
    return [_array(value) for value in binding.get_outputs()]


def _value(array: Array) -> Any:
    if array.dtype == DTYPES["BF16"]:
        bits = array.view("<u2")
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(bits, _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array)


def _array(value: Any) -> Array:
    if value.data_type() != "tensor(bfloat16)":
        array: Array = value.numpy()
        return array
    dtype = DTYPES["BF16"]
    size = value.tensor_size_in_bytes()
    content = ctypes.string_at(value.data_ptr(), size) if size else b""
    return np.frombuffer(content, dtype).reshape(value.shape())


def _to_runtime(array: Array, tensor: TensorSpecification) -> Array:
    whole = array if tensor.batched else array.reshape(array.shape[1:])
    if tensor.datatype != "BYTES":
        return whole
    return _objects([element.decode() for element in whole.ravel().tolist()], whole.shape)


def _from_runtime(answer: Array, tensor: TensorSpecification) -> Array:
    array = np.asarray(answer)
    if tensor.datatype == "BYTES":
        array = _objects([text.encode() for text in array.ravel().tolist()], array.shape)
    return array if tensor.batched else array[np.newaxis]


def _objects(values: Sequence[object], shape: Sequence[int]) -> Array:
    array = np.empty(len(values), object)
    array[:] = values
    return array.reshape(shape)
