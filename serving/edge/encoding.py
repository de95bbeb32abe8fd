"""From a call's outputs to the Open Inference Protocol's inference response.

Each output of a frame is rendered once, for all requests in it, and the text is cut by rows. What
JSON has no literal for becomes `null` there: a NaN, an infinity, an element of BYTES that is not
UTF-8. Binary outputs keep every bit.
"""

import heapq
import math
from collections.abc import Sequence
from typing import Final

import numpy as np
import orjson

from serving.core.batches import Buffer, TensorBlock
from serving.core.elements import join_elements
from serving.core.models import ModelVersion
from serving.edge.decoding import WireTensor
from serving.gateway.calls import Call, WantedOutput

_JSON: Final = b'{"name":%b,"datatype":"%b","shape":[%b],"data":[%b]}'
_BINARY: Final = b'{"name":%b,"datatype":"%b","shape":[%b],"parameters":{"binary_data_size":%d}}'


class AnswerEncoder:
    """Writes the answers of one model version."""

    def __init__(self, version: ModelVersion) -> None:
        self._outputs = version.outputs
        self._batched = all(tensor.batched for tensor in version.outputs)
        self._names = [orjson.dumps(tensor.name) for tensor in version.outputs]
        self._datatypes = [tensor.datatype.encode() for tensor in version.outputs]
        self._fixed = all(tensor.datatype != "BYTES" for tensor in version.outputs)
        self._begin = b'{"model_name":%b,"model_version":%b' % (
            orjson.dumps(version.model),
            orjson.dumps(version.version),
        )

    def encode(self, call: Call) -> tuple[bytes, list[Buffer]]:
        """The JSON part of the answer and the binary tensors behind it."""
        wanted = call.request.wanted
        if wanted is None:
            return self._all_json(call), []
        frame = call.frame
        if frame is None or call.request_id:
            return self._chosen(call, wanted)
        # One object for all requests with the same JSON part, and kept by them: what was written for
        # the first of a frame is right for the others.
        key = (id(wanted), call.rows)
        text = frame.rendered.get(key)
        if text is not None:
            return text, [call.outputs[output[0]] for output in wanted]
        text, buffers = self._chosen(call, wanted)
        if self._fixed and len(buffers) == len(wanted) and not any(it.classes for it in wanted):
            frame.rendered[key] = text
        return text, buffers

    def _chosen(self, call: Call, wanted: Sequence[WantedOutput]) -> tuple[bytes, list[Buffer]]:
        buffers: list[Buffer] = []
        outputs = [
            self._binary_output(call, output[0], buffers)
            if output[1] and not output[2]
            else self._other_output(call, output, buffers)
            for output in wanted
        ]
        return b'%b%b,"outputs":[%b]}' % (self._begin, _id_of(call), b",".join(outputs)), buffers

    def _all_json(self, call: Call) -> bytes:
        """Every output in JSON: texts of the call's rows between what its frame says around them."""
        frame = call.frame
        heads = frame.rendered.get(("heads", call.rows)) if frame is not None else None
        if frame is None or heads is None:
            heads = self._heads(call)
        first, rows = call.first_row, call.rows
        parts = [self._begin, _id_of(call)] if call.request_id else [self._begin]
        for head, texts in heads:
            parts.append(head)
            parts.append(texts[first] if rows == 1 else _joined(texts[first : first + rows]))
        parts.append(b"]}]}")
        return b"".join(parts)

    def _heads(self, call: Call) -> Sequence[tuple[bytes, list[bytes]]]:
        """What stands before the elements of each output, and the texts of all rows of the frame."""
        frame = call.frame
        if frame is None:
            raise ValueError("a call without an answer was encoded. This is a bug")
        heads = []
        before = b',"outputs":[{"name":'
        for index, name in enumerate(self._names):
            texts, shape = self._rendered(call, index)
            head = b'%b%b,"datatype":"%b","shape":[%b],"data":['
            heads.append((head % (before, name, self._datatypes[index], shape), texts))
            before = b']},{"name":'
        frame.rendered["heads", call.rows] = heads
        return heads

    def tensors(self, call: Call) -> list[WireTensor]:
        """The outputs asked for, all in binary, as gRPC sends them."""
        wanted = call.request.wanted
        if wanted is None:
            wanted = [WantedOutput(index, binary=True) for index in range(len(self._outputs))]
        return [self._tensor(call, output) for output in wanted]

    # -- one output ------------------------------------------------------------------------------

    def _other_output(self, call: Call, wanted: WantedOutput, buffers: list[Buffer]) -> bytes:
        if wanted.classes:
            return self._class_output(call, wanted, buffers)
        return self._json_output(call, wanted.output)

    def _json_output(self, call: Call, index: int) -> bytes:
        texts, shape = self._rendered(call, index)
        data = _joined(texts[call.first_row : call.first_row + call.rows])
        return _JSON % (self._names[index], self._datatypes[index], shape, data)

    def _rendered(self, call: Call, index: int) -> tuple[list[bytes], bytes]:
        """The text of every row of one output of the frame, and the call's own shape."""
        frame = call.frame
        known = frame.rendered.get(index) if frame is not None else None
        texts, row_shape = known or self._render(call, index)
        return texts, b"%d%b" % (call.rows, row_shape) if self._batched else row_shape[1:]

    def _render(self, call: Call, index: int) -> tuple[list[bytes], bytes]:
        """The text of every row of one output of the frame, and its row shape."""
        frame = call.frame
        if frame is None or frame.answer is None:
            raise ValueError("a call without an answer was encoded. This is a bug")
        block = frame.answer.outputs[index]
        row_shape = b"".join(b",%d" % size for size in block.row_shape)
        rendered = frame.rendered[index] = (_row_texts(block, frame.answer.rows), row_shape)
        return rendered

    def _binary_output(self, call: Call, index: int, buffers: list[Buffer]) -> bytes:
        view = call.outputs[index]
        buffers.append(view)
        shape = b"".join([b",%d" % size for size in self._row_shape(call, index)])
        if not self._batched:
            return _BINARY % (self._names[index], self._datatypes[index], shape[1:], len(view))
        return (
            b'{"name":%b,"datatype":"%b","shape":[%d%b],"parameters":{"binary_data_size":%d}}'
            % (self._names[index], self._datatypes[index], call.rows, shape, len(view))
        )

    def _class_output(self, call: Call, wanted: WantedOutput, buffers: list[Buffer]) -> bytes:
        _, datatype, shape, data = self._tensor(call, wanted)
        name, text = self._names[wanted.output], b",".join([b"%d" % size for size in shape])
        if wanted.binary:
            buffers.append(data)
            return _BINARY % (name, datatype.encode(), text, len(data))
        (row,) = _row_texts(TensorBlock(datatype, tuple(shape), (data,)), 1)
        return _JSON % (name, datatype.encode(), text, row)

    def _row_shape(self, call: Call, index: int) -> tuple[int, ...]:
        frame = call.frame
        if frame is None or frame.answer is None:
            raise ValueError("a call without an answer was encoded. This is a bug")
        return frame.answer.outputs[index].row_shape

    def _tensor(self, call: Call, wanted: WantedOutput) -> WireTensor:
        declared = self._outputs[wanted.output]
        rows = (call.rows,) if self._batched else ()
        row_shape = self._row_shape(call, wanted.output)
        data: Buffer = call.outputs[wanted.output]
        if not wanted.classes:
            return WireTensor(declared.name, declared.datatype, (*rows, *row_shape), data)
        elements = math.prod(row_shape)
        table = np.frombuffer(data, declared.dtype).reshape(call.rows, elements).tolist()
        best = [text for row in table for text in _classes(row, wanted.classes)]
        shape = (*rows, min(wanted.classes, elements))
        return WireTensor(declared.name, "BYTES", shape, join_elements(best))


def _id_of(call: Call) -> bytes:
    return b',"id":%b' % orjson.dumps(call.request_id.decode()) if call.request_id else b""


def _joined(texts: Sequence[bytes]) -> bytes:
    """Elements of several rows; nothing where rows have none."""
    return b",".join(texts) if texts[0] else b""


def _row_texts(block: TensorBlock, rows: int) -> list[bytes]:
    """JSON text of each row's elements; one encoder call for the whole frame."""
    if block.datatype == "BYTES":
        strings = block.array(rows).reshape(rows, -1).tolist()
        return [orjson.dumps(list(map(_text, row)))[1:-1] for row in strings]
    if not block.row_bytes:
        return [b""] * rows
    text = orjson.dumps(block.array(rows).reshape(rows, -1), option=orjson.OPT_SERIALIZE_NUMPY)
    return text[2:-2].split(b"],[")


def _text(element: bytes) -> str | None:
    try:
        return element.decode()
    except UnicodeDecodeError:
        return None


def _classes(row: Sequence[float], count: int) -> list[bytes]:
    """The `count` largest elements as `value:index`, largest first; a NaN comes last.

    A fraction has six digits, as in every other server with this extension.
    """

    def rank(index: int) -> tuple[bool, float]:
        return row[index] == row[index], row[index]

    ranked = heapq.nlargest(count, range(len(row)), key=rank)
    return [
        (f"{row[index]:f}" if isinstance(row[index], float) else f"{row[index]}").encode()
        + b":%d" % index
        for index in ranked
    ]
