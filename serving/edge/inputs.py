"""One input of a model version on the wire: what shapes it takes, and its data as raw rows.

JSON data are decoded by the tensor's datatype (so `true` is no number and 300 no UINT8), flat or
nested, and packed. Binary data stay where they are. Everything is checked against the declaration
before memory is taken: shapes, element counts, sizes. BF16 has no JSON form.
"""

import itertools
import math
import struct
from collections.abc import Callable, Sequence
from typing import Any, Final

import msgspec
import numpy as np

from serving.core.batches import Buffer
from serving.core.elements import LENGTH_BYTES, ElementsInvalid, join_elements, split_elements
from serving.core.tensors import MAX_ELEMENTS, MAX_RANK, TensorSpecification
from serving.edge.messages import MAX_STRING_BYTES
from serving.errors import (
    BodyTooLarge,
    DataShapeMismatch,
    DatatypeMismatch,
    JsonInvalid,
    RequestInvalid,
    ShapeInvalid,
    ShapeOverflow,
    ValueOutOfRange,
)

MAX_TENSOR_BYTES: Final = 64 * 1024 * 1024
"""Of one input, counted in its datatype: JSON digits can be shorter than what they stand for."""

_MAX_PACKERS: Final = 256
_PACK_ELEMENTS: Final = 4096
_FORMATS: Final = {
    "BOOL": "?", "UINT8": "B", "UINT16": "H", "UINT32": "I", "UINT64": "Q",
    "INT8": "b", "INT16": "h", "INT32": "i", "INT64": "q",
    "FP16": "e", "FP32": "f", "FP64": "d",
}  # fmt: skip
_ELEMENTS: Final = {"?": bool, "e": float, "f": float, "d": float, "s": str}

ListDecoder = Callable[[Buffer], list[Any]]


class NumberInput:
    """An input whose elements all take the same number of bytes."""

    looks_inside = False
    """Whether binary data must be read element by element before they can be believed."""

    def __init__(self, declared: TensorSpecification) -> None:
        self.declared = declared
        self.row_shape = declared.row_shape
        self.item_bytes = self._least_item_bytes()
        self.decode_flat = self._list_decoder(1)
        """JSON numbers in one flat list. Raises msgspec's errors."""
        row_elements = declared.row_elements if declared.batched else None
        self._row_dimensions = list(declared.row_shape)
        most = min(MAX_ELEMENTS, MAX_TENSOR_BYTES // self.item_bytes)
        # 0 when a row may vary: its shape is always looked at closely.
        self._max_rows = most // row_elements if row_elements else 0
        self._nested_decoders: dict[int, ListDecoder] = {}
        self._packers: dict[int, Callable[..., bytes]] = {}

    def row_shape_of(self, shape: Sequence[int]) -> tuple[int, ...]:
        """The concrete row shape. Raises ShapeInvalid, ShapeOverflow or BodyTooLarge."""
        if shape and shape[1:] == self._row_dimensions and 0 < shape[0] <= self._max_rows:
            return self.row_shape
        declared = self.declared
        name, rank = declared.name, len(shape)
        if rank > MAX_RANK or (declared.batched and not rank) or min(shape, default=0) < 0:
            raise ShapeInvalid(
                f"input {name}: a shape has up to {MAX_RANK} dimensions, none below 0"
            )
        if declared.batched and not shape[0]:
            raise ShapeInvalid(f"input {name}: a request has at least one row")
        # Dimensions of size 0 hide no others: they would be believed further on.
        if math.prod(max(size, 1) for size in shape) > MAX_ELEMENTS:
            raise ShapeOverflow(f"input {name}: at most {MAX_ELEMENTS} elements")
        row_shape = tuple(shape[1:] if declared.batched else shape)
        if not declared.admits_row(row_shape):
            wanted = list(declared.shape)
            raise ShapeInvalid(f"input {name} must have shape {wanted}, -1 may vary")
        if math.prod(shape) * self.item_bytes > MAX_TENSOR_BYTES:
            raise BodyTooLarge(f"input {name}: at most {MAX_TENSOR_BYTES} bytes")
        return row_shape

    def read_json(self, raw: msgspec.Raw, shape: Sequence[int]) -> bytes:
        """JSON data, flat or nested, as raw rows."""
        values = self._values(raw, shape)
        count = math.prod(shape)
        if len(values) != count:
            raise self._mismatch(count, len(values))
        return self.pack(values)

    def pack(self, values: list[Any]) -> bytes:
        """Decoded JSON values as raw elements. Raises ValueOutOfRange."""
        count = len(values)
        try:
            if count > _PACK_ELEMENTS:
                return self._pack_many(values)
            packer = self._packers.get(count) or self._packer(count)
            return packer(*values)
        except (struct.error, OverflowError) as error:
            raise self.unfit() from error

    def read_binary(self, data: Buffer, shape: Sequence[int]) -> Buffer:
        """Checks raw data of a shape that was found good, and gives them back."""
        size = math.prod(shape) * self.item_bytes
        if len(data) != size:
            name = self.declared.name
            raise DataShapeMismatch(f"input {name}: shape and datatype want {size} bytes")
        return data

    def unfit(self) -> ValueOutOfRange:
        declared = self.declared
        return ValueOutOfRange(f"input {declared.name}: a value does not fit {declared.datatype}")

    # -- JSON ------------------------------------------------------------------------------------

    def _least_item_bytes(self) -> int:
        return self.declared.dtype.itemsize

    def _format(self) -> str:
        return _FORMATS[self.declared.datatype]

    def _list_decoder(self, depth: int) -> ListDecoder:
        element: Any = _ELEMENTS.get(self._format(), int)
        for _ in range(depth):
            element = list[element]
        return msgspec.json.Decoder(element).decode

    def _values(self, raw: msgspec.Raw, shape: Sequence[int]) -> list[Any]:
        """The elements, row-major; flat data first, because that is what clients send."""
        try:
            return self.decode_flat(raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            if len(shape) <= 1 or "got `array`" not in str(error):
                raise self._unreadable(raw, error) from error
        try:
            return self.decode_nested(shape, raw)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise self._unreadable(raw, error) from error

    def decode_nested(self, shape: Sequence[int], raw: Buffer | msgspec.Raw) -> list[Any]:
        """JSON numbers in lists as deep as the shape. Raises msgspec's errors or a RequestInvalid."""
        decode = self._nested_decoders.get(len(shape))
        if decode is None:
            decode = self._nested_decoders[len(shape)] = self._list_decoder(len(shape))
        values = decode(raw)
        if len(values) != shape[0]:
            raise self._mismatch(shape[0], len(values))
        for size in shape[1:]:
            if any(len(inner) != size for inner in values):
                raise DataShapeMismatch(
                    f"input {self.declared.name}: nested data has another shape"
                )
            values = list(itertools.chain.from_iterable(values))
        return values

    def _unreadable(self, raw: msgspec.Raw, error: Exception) -> RequestInvalid:
        """What is wrong with data that are no array of our datatype."""
        name, datatype = self.declared.name, self.declared.datatype
        if not len(raw):
            return DataShapeMismatch(f"input {name} has no data")
        reason = str(error)
        if "out of range" in reason or (datatype == "BOOL" and "got `int`" in reason):
            return self.unfit()
        if not isinstance(error, msgspec.ValidationError):
            return JsonInvalid(f"input {name}: data is not valid JSON")
        return DatatypeMismatch(f"input {name}: data must be an array of {datatype} values")

    def _packer(self, count: int) -> Callable[..., bytes]:
        packer = struct.Struct(f"<{count}{self._format()}").pack
        if len(self._packers) < _MAX_PACKERS:
            self._packers[count] = packer
        return packer

    def _pack_many(self, values: list[Any]) -> bytes:
        dtype = self.declared.dtype
        array = np.array(values, np.float64 if dtype.kind == "f" else dtype)
        with np.errstate(over="raise"):
            try:
                return array.astype(dtype).tobytes()
            except FloatingPointError as error:
                raise OverflowError from error

    def _mismatch(self, wanted: int, got: int) -> DataShapeMismatch:
        name = self.declared.name
        return DataShapeMismatch(f"input {name}: the shape wants {wanted} elements, data has {got}")


class BoolInput(NumberInput):
    """BOOL: a byte that is neither 0 nor 1 is no value."""

    looks_inside = True

    def read_binary(self, data: Buffer, shape: Sequence[int]) -> Buffer:
        super().read_binary(data, shape)
        if bytes(data).translate(None, b"\x00\x01"):
            raise ValueOutOfRange(f"input {self.declared.name}: bytes of BOOL are 0 or 1")
        return data


class BrainInput(NumberInput):
    """BF16, which the protocol defines in binary only."""

    def _format(self) -> str:
        return "H"

    def read_json(self, raw: msgspec.Raw, shape: Sequence[int]) -> bytes:
        raise DatatypeMismatch(f"input {self.declared.name}: send BF16 as binary data")


class StringInput(NumberInput):
    """BYTES. Every element is UTF-8: that is what strings are in JSON and in ONNX models."""

    looks_inside = True

    def _least_item_bytes(self) -> int:
        return LENGTH_BYTES

    def _format(self) -> str:
        return "s"

    def pack(self, values: list[str]) -> bytes:
        encoded = [value.encode() for value in values]
        if any(len(value) > MAX_STRING_BYTES for value in encoded):
            name = self.declared.name
            raise ValueOutOfRange(
                f"input {name}: a JSON string has at most {MAX_STRING_BYTES} bytes"
            )
        raw = join_elements(encoded)
        self._check_size(raw)
        return raw

    def read_binary(self, data: Buffer, shape: Sequence[int]) -> Buffer:
        self._check_size(data)
        name, count = self.declared.name, math.prod(shape)
        try:
            for element in split_elements(data, count):
                element.decode()
        except ElementsInvalid as error:
            raise DataShapeMismatch(f"input {name}: data are not {count} elements") from error
        except UnicodeDecodeError as error:
            raise ValueOutOfRange(f"input {name}: an element is not UTF-8") from error
        return data

    def _check_size(self, raw: Buffer) -> None:
        if len(raw) > MAX_TENSOR_BYTES:
            raise BodyTooLarge(
                f"input {self.declared.name}: at most {MAX_TENSOR_BYTES} bytes, lengths included"
            )


_KINDS: Final = {"BOOL": BoolInput, "BF16": BrainInput, "BYTES": StringInput}


def input_of(declared: TensorSpecification) -> NumberInput:
    """What reads this input."""
    return _KINDS.get(declared.datatype, NumberInput)(declared)
