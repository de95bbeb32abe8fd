from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper

from serving.core.models import ModelVersion
from serving.core.tensors import DTYPES, Array, TensorSpecification
from serving.engine_settings import InferenceSettings
from serving.errors import ModelFailed
from serving.inference.session import OnnxSession
from tests.inference import graphs
from tests.releases import bundle_of

IDENTITY = helper.make_node("Identity", ["input"], ["output"])


def load(folder: Path, content: bytes, version: ModelVersion) -> OnnxSession:
    artifact = graphs.write(folder, content)
    return OnnxSession.load(version, bundle_of(artifact), settings=InferenceSettings(device="cpu"))


def of(datatype: str, shape: tuple[int, ...], content: bytes, **names: str) -> ModelVersion:
    """A version with one input and one output of this shape, batched if it begins with -1."""
    batched = shape[:1] == (-1,)
    tensors = [
        TensorSpecification(names.get(name, name), datatype, shape, batched=batched)
        for name in ("input", "output")
    ]
    version = graphs.version_of(content, inputs=tensors[:1], outputs=tensors[1:])
    return replace(version, batched=batched)


def objects(*values: bytes) -> Array:
    array = np.empty((len(values), 1), object)
    array[:, 0] = values
    return array


def test_strings_are_utf_8_on_both_sides(tmp_path: Path) -> None:
    """Elements of BYTES come back as they went in: empty, with a zero byte, beyond ASCII."""
    content = graphs.of_rows(IDENTITY, columns=1, datatype=TensorProto.STRING)
    session = load(tmp_path, content, of("BYTES", (-1, 1), content))
    texts = objects(b"", b"a\0b", "Grüße".encode())

    assert session.run([texts])[0].tolist() == texts.tolist()


def test_bytes_that_are_no_text_fail_their_row(tmp_path: Path) -> None:
    """A string that is no UTF-8 is a failed run, not another string."""
    content = graphs.of_rows(IDENTITY, columns=1, datatype=TensorProto.STRING)
    session = load(tmp_path, content, of("BYTES", (-1, 1), content))

    with pytest.raises(ModelFailed):
        session.run([objects(b"\xff")])


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_half_floats_keep_their_bits(tmp_path: Path, datatype: str) -> None:
    """Every pattern of sixteen bits passes unchanged, NaN and all."""
    kind = TensorProto.FLOAT16 if datatype == "FP16" else TensorProto.BFLOAT16
    content = graphs.of_rows(IDENTITY, columns=256, datatype=kind)
    session = load(tmp_path, content, of(datatype, (-1, 256), content))
    bits = np.arange(65_536, dtype="<u2").reshape(256, 256)

    output = session.run([bits.view(DTYPES[datatype])])[0]

    assert output.dtype == DTYPES[datatype]
    assert np.array_equal(output.view("<u2"), bits)


@pytest.mark.parametrize("shape", [(), (3,), (2, 0), (2, 3)], ids=str)
def test_a_whole_tensor_is_one_row(tmp_path: Path, shape: tuple[int, ...]) -> None:
    """A version that is not batched sees its tensor without the dimension that counts rows."""
    content = graphs.whole(IDENTITY, shape=shape, result=shape)
    session = load(tmp_path, content, of("FP32", shape, content))
    row = np.arange(int(np.prod(shape)), dtype=np.float32).reshape(1, *shape)

    (output,) = session.run([row])

    assert (output.shape, output.tolist()) == (row.shape, row.tolist())


def test_odd_names_are_names(tmp_path: Path) -> None:
    """Colons, slashes and spaces in the names of tensors are nothing special."""
    odd = ("serving_default/in put:0", "StatefulCall/a:b//0")
    node = helper.make_node("Identity", [odd[0]], [odd[1]])
    content = graphs.whole(node, shape=(2,), result=(2,), names=odd)
    session = load(tmp_path, content, of("FP32", (2,), content, input=odd[0], output=odd[1]))

    assert session.run([np.ones((1, 2), np.float32)])[0].tolist() == [[1, 1]]
