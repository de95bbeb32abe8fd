"""Both codecs of the wire give back what they were given, and blame the caller for all else."""

import json
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.core.batches import TensorBlock
from serving.core.models import ModelVersion
from serving.core.tensors import DTYPES, Array, TensorSpecification
from serving.edge.codec import Signature
from serving.edge.decoding import WireTensor
from serving.errors import DeadlineExceeded, DuplicateKey, RequestInvalid
from tests.edge.port import InferencePort, binary, echo, tensor
from tests.strategies import Tensor, inference_messages, tensors

FLOATS = ("FP16", "FP32", "FP64")
PLAIN = {"nested": False, "variable": False, "batched": True}
IN_JSON = st.sampled_from(sorted(DTYPES.keys() - {"BF16"}))


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> InferencePort:
    """One port for all examples of a property; each publishes the version that it needs."""
    return InferencePort(tmp_path_factory.mktemp("port"))


def version_of(drawn: Tensor, *, variable: bool = False, batched: bool = True) -> ModelVersion:
    """A version that echoes tensors like `drawn`. batched: whether its dimension 0 counts rows."""
    shape = drawn.array.shape
    declared = tuple([-1] * len(shape)) if variable else (-1, *shape[1:]) if batched else shape
    return echo(TensorSpecification("x", drawn.datatype, declared, batched=batched), finite=False)


def bits(array: Array) -> bytes:
    """The raw form: -0.0 is not 0.0, and a NaN equals itself."""
    return bytes(TensorBlock.of(np.atleast_1d(array)).buffers[0])


def array_of(output: dict[str, Any], datatype: str) -> Array:
    """The output's data as an array; null is NaN."""
    data = output["data"]
    if datatype == "BYTES":
        return np.array([text.encode() for text in data], object).reshape(output["shape"])
    values = [np.nan if value is None else value for value in data]
    return np.array(values, DTYPES[datatype]).reshape(output["shape"])


def in_json(drawn: Tensor, *, nested: bool = False) -> dict[str, Any]:
    data: Any = drawn.array
    if data.dtype.hasobject:
        data = np.array([text.decode() for text in data.ravel()], object).reshape(data.shape)
    data = data.tolist() if nested else data.ravel().tolist()
    return {"inputs": [tensor("x", drawn.datatype, drawn.array.shape, data)]}


def in_binary(drawn: Tensor, **members: Any) -> tuple[bytes, str]:
    raw = bits(drawn.array)
    size = {"parameters": {"binary_data_size": len(raw)}}
    return binary(
        {"inputs": [tensor("x", drawn.datatype, drawn.array.shape, **size)], **members}, raw
    )


@given(drawn=tensors(IN_JSON), nested=st.booleans(), variable=st.booleans(), batched=st.booleans())
@example(drawn=Tensor("FP32", np.array([[-0.0, 5e-45]], np.float32)), **PLAIN)
@example(drawn=Tensor("INT64", np.array([2**53 + 1, 2**63 - 1, -(2**63)])), **PLAIN)
@example(drawn=Tensor("UINT64", np.array([2**64 - 1], np.uint64)), **PLAIN)
@example(drawn=Tensor("FP64", np.array([[[]]])), nested=True, variable=True, batched=True)
@example(drawn=Tensor("BYTES", np.array([b'],["\\', b"\x00", b"\xe2\x80\xa8"], object)), **PLAIN)
@example(drawn=Tensor("INT8", np.array(7, np.int8)), **PLAIN | {"batched": False})
@example(drawn=Tensor("BYTES", np.empty((0, 2), object)), **PLAIN | {"batched": False})
def test_json_comes_back_as_it_went(
    shared: InferencePort, drawn: Tensor, *, nested: bool, variable: bool, batched: bool
) -> None:
    """Any finite tensor survives JSON both ways by the bit: flat or nested, with rows or without."""
    shared.serve(version_of(drawn, variable=variable, batched=batched))

    first, again = (
        shared.infer(in_json(drawn, nested=nested and drawn.array.ndim > 0)) for _ in range(2)
    )

    (output,) = first.json()["outputs"]
    assert (list(drawn.array.shape), drawn.datatype) == (output["shape"], output["datatype"])
    assert bits(drawn.array) == bits(array_of(output, drawn.datatype))
    assert first.body == again.body


@given(tensors(finite=False), st.booleans())
@example(Tensor("BF16", np.array(0x7FC1, "<u2").view(DTYPES["BF16"])), False)
def test_binary_comes_back_as_it_went(shared: InferencePort, drawn: Tensor, batched: bool) -> None:
    """Any tensor survives the binary form both ways by the bit, NaN and infinities included."""
    shared.serve(version_of(drawn, batched=batched))
    body, header = in_binary(drawn, parameters={"binary_data_output": True})

    for _ in range(2):
        answer = shared.infer(body, header)

        length = int(answer.headers["inference-header-content-length"])
        (output,) = json.loads(answer.body[:length])["outputs"]
        assert output["parameters"] == {"binary_data_size": len(bits(drawn.array))}
        assert (list(drawn.array.shape), drawn.datatype) == (output["shape"], output["datatype"])
        assert bits(drawn.array) == answer.body[length:]
        (recorded,) = shared.stand.log.records[-1].inputs
        assert bits(recorded.array) == bits(drawn.array)


@given(tensors(finite=False), st.booleans())
def test_separate_tensors_are_read_like_one_body(drawn: Tensor, batched: bool) -> None:
    """A tensor that comes by itself, as in gRPC, becomes the same request as one behind JSON."""
    signature = Signature(version_of(drawn, batched=batched))
    body, header = in_binary(drawn, parameters={"binary_data_output": True})
    wire = WireTensor("x", drawn.datatype, list(drawn.array.shape), bits(drawn.array))

    one = signature.decode(memoryview(body), int(header.rpartition(" ")[2]))
    other = signature.decode_tensors([wire])

    assert list(map(bytes, one.inputs)) == list(map(bytes, other.inputs))
    assert (one.shapes, one.rows, one.wanted) == (other.shapes, other.rows, other.wanted)


@given(tensors(st.sampled_from(FLOATS), finite=False))
def test_tn_08_json_answers_have_null_for_what_json_cannot_say(
    shared: InferencePort, drawn: Tensor
) -> None:
    """NaN and infinities in an output become null; every other number keeps its bits."""
    shared.serve(version_of(drawn))
    body, header = in_binary(drawn)

    (output,) = shared.infer(body, header).json()["outputs"]

    finite = np.where(np.isfinite(drawn.array), drawn.array, np.nan).astype(drawn.array.dtype)
    assert np.array_equal(array_of(output, drawn.datatype), finite, equal_nan=True)
    assert (output["data"].count(None)) == np.count_nonzero(~np.isfinite(drawn.array))


@given(inference_messages())
def test_tn_26_no_message_is_a_fault_of_ours(shared: InferencePort, body: bytes) -> None:
    """Whatever looks like a request is answered or refused as the caller's; the log has the same."""
    shared.serve(echo(TensorSpecification("x", "FP32", (-1, -1)), finite=False))
    log = shared.stand.log
    before = (len(log.records), shared.admitted)

    answer = shared.infer(body)

    assert answer.status in (200, 400, 413) or answer.json()["code"] == "deadline_exceeded"
    after = (len(log.records), shared.admitted)
    assert after == tuple(number + (answer.status == 200) for number in before)
    assert shared.stand.pipeline.admission.in_flight == 0


MEMBERS = st.sampled_from(
    [b'"inputs"', b'"id"', b'"parameters"', b'"name"', b'"shape"', b'"data"', b'"a"']
)


@given(member=MEMBERS, early=st.booleans(), spaced=st.booleans())
def test_tn_15_any_member_twice_is_refused(member: bytes, early: bool, spaced: bool) -> None:
    """Whichever member is there twice, first or last, written plainly or not: it is refused."""
    body = (
        b'{"id":"1","a":{"a":1},"parameters":{"a":"1"},"inputs":'
        b'[{"name":"x","shape":[1],"datatype":"INT8","data":[1]}]}'
    )
    signature = Signature(echo(TensorSpecification("x", "INT8", (-1,))))
    signature.decode(memoryview(body), None)
    start = body.index(member)
    copy = member.replace(b'"', b'"\\u00%02x' % member[1], 1)[:7] + member[2:]
    value = json.JSONDecoder().raw_decode(body[start + len(member) + 1 :].decode())[1]
    text = body[start : start + len(member) + 1 + value]
    again = copy + (b" : " if spaced else b":") + text[len(member) + 1 :]
    twice = body.replace(text, b",".join([again, text] if early else [text, again]), 1)
    assert json.loads(twice)

    for _ in range(2):
        with pytest.raises(DuplicateKey):
            signature.decode(memoryview(twice), None)


@given(body=inference_messages(), behind=st.binary(max_size=24), data=st.data())
def test_tn_26_decoder_raises_nothing_else(body: bytes, behind: bytes, data: st.DataObject) -> None:
    """Any message, cut anywhere, changed anywhere, for any datatype: a request or a refusal."""
    datatype = data.draw(st.sampled_from(sorted(DTYPES)))
    batched = data.draw(st.booleans())
    shape = data.draw(
        st.sampled_from([(-1,), (-1, 2), (-1, -1), *([] if batched else [(), (0, 2)])])
    )
    version = echo(TensorSpecification("x", datatype, shape, batched=batched))
    changed = bytearray(body)
    if changed and data.draw(st.booleans()):
        changed[data.draw(st.integers(0, len(changed) - 1))] = data.draw(st.integers(0, 255))
    length = data.draw(st.one_of(st.none(), st.just(len(body)), st.integers(0, len(body))))

    signature = Signature(version)
    for _ in range(2):
        try:
            request = signature.decode(memoryview(bytes(changed) + behind), length)
        except (RequestInvalid, DeadlineExceeded):
            continue
        blocks = zip(request.inputs, request.shapes, strict=True)
        arrays = [TensorBlock(datatype, row, (raw,)).array(request.rows) for raw, row in blocks]
        assert [array.shape[1:] for array in arrays] == list(request.shapes)
