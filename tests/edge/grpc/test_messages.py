import struct
from typing import Any

import numpy as np
import pytest
from google.protobuf.message import Message  # type: ignore[import-untyped]  # it ships no types
from hypothesis import given
from hypothesis import strategies as st

from serving.core.elements import join_elements
from serving.core.tensors import DTYPES, TensorSpecification
from serving.edge.grpc import inference_pb2
from serving.edge.grpc.messages import (
    CONTENTS,
    MessageVersion,
    parse,
    stream_answer,
    stream_error,
)
from serving.errors import (
    DataShapeMismatch,
    DatatypeMismatch,
    DeadlineExceeded,
    MessageInvalid,
    ParameterInvalid,
    RequestInvalid,
    ServingError,
    ShapeInvalid,
    ValueOutOfRange,
)
from serving.gateway.calls import InferenceRequest
from tests.edge.port import ECHO, echo

VALUES: dict[str, list[Any]] = {
    "BOOL": [True, False],
    "INT8": [-128, 127], "INT16": [-(2**15), 2**15 - 1], "INT32": [-(2**31), 2**31 - 1],
    "INT64": [-(2**63), 2**63 - 1],
    "UINT8": [0, 255], "UINT16": [0, 2**16 - 1], "UINT32": [0, 2**32 - 1],
    "UINT64": [0, 2**64 - 1],
    "FP32": [0.5, float("inf")], "FP64": [1e-300, -0.0],
    "BYTES": [b"", "å".encode()],
}  # fmt: skip
"""The ends of what each datatype holds."""

OUTSIDE = [("INT8", 128), ("INT16", -(2**15) - 1), ("UINT8", 256), ("UINT16", 2**16)]


def of_one(datatype: str, **changes: Any) -> MessageVersion:
    return MessageVersion(echo(TensorSpecification("x", datatype, (-1,))))


def typed(datatype: str, values: list[Any], member: str | None = None) -> Any:
    """A request with one input of typed contents."""
    message = inference_pb2.ModelInferRequest(model_name="echo")
    tensor = message.inputs.add(name="x", datatype=datatype, shape=[len(values)])
    getattr(tensor.contents, member or CONTENTS[datatype]).extend(values)
    return message


def raw(*buffers: bytes, rows: int = 1) -> Any:
    """A request for `ECHO` with raw contents."""
    message = inference_pb2.ModelInferRequest(model_name="echo")
    message.inputs.add(name="x", datatype="FP32", shape=[rows, 2])
    message.inputs.add(name="n", datatype="INT64", shape=[rows])
    message.raw_input_contents.extend(buffers)
    return message


GOOD = (struct.pack("<2f", 1, 2), struct.pack("<q", 7))


@pytest.mark.parametrize("datatype", CONTENTS)
def test_typed_elements_become_raw_ones(datatype: str) -> None:
    """Each datatype with a typed form is read from its member, to its ends."""
    values = VALUES[datatype]

    request = of_one(datatype).read(typed(datatype, values))

    packed = np.array(values, DTYPES[datatype]).tobytes()
    expected = join_elements(values) if datatype == "BYTES" else packed
    assert (request.rows, request.inputs) == (2, (expected,))


@pytest.mark.parametrize(("datatype", "value"), OUTSIDE)
def test_elements_that_do_not_fit_are_refused(datatype: str, value: int) -> None:
    """A 32 bit member may hold what the tensor's datatype cannot."""
    with pytest.raises(ValueOutOfRange):
        of_one(datatype).read(typed(datatype, [value]))


@pytest.mark.parametrize("datatype", CONTENTS)
def test_elements_in_another_member_are_refused(datatype: str) -> None:
    """Elements are not looked for where their datatype does not belong."""
    member = "fp64_contents" if datatype != "FP64" else "fp32_contents"

    with pytest.raises(DatatypeMismatch):
        of_one(datatype).read(typed(datatype, [1.0], member))


@pytest.mark.parametrize("datatype", ["FP16", "BF16", "FP8", ""])
def test_datatypes_without_a_typed_form_are_refused(datatype: str) -> None:
    """FP16 and BF16 are raw only, and what is no datatype is refused likewise."""
    declared = datatype if datatype in DTYPES else "FP32"

    with pytest.raises(DatatypeMismatch):
        of_one(declared).read(typed(datatype, [1.0], "fp32_contents"))


@pytest.mark.parametrize("datatype", ["FP16", "BF16"])
def test_halves_are_read_raw(datatype: str) -> None:
    """Their bits arrive as they were sent."""
    message = inference_pb2.ModelInferRequest(raw_input_contents=[b"\x00\x3c\x01\x02"])
    message.inputs.add(name="x", datatype=datatype, shape=[2])

    request = of_one(datatype).read(message)

    assert (request.rows, request.inputs) == (2, (b"\x00\x3c\x01\x02",))


def test_raw_contents_come_in_the_order_of_their_inputs() -> None:
    """Inputs may stand in any order; their raw entries stand in the same."""
    swapped = inference_pb2.ModelInferRequest(raw_input_contents=reversed(GOOD))
    swapped.inputs.extend(reversed(raw(*GOOD).inputs))

    assert MessageVersion(ECHO).read(swapped).inputs == GOOD
    assert MessageVersion(ECHO).read(raw(*GOOD)).inputs == GOOD


def both() -> Any:
    message = raw(*GOOD)
    message.inputs[0].contents.fp32_contents.extend([1, 2])
    return message


def twice() -> Any:
    message = raw(*GOOD, GOOD[0])
    message.inputs.append(message.inputs[0])
    return message


def of_shape(*shape: int) -> Any:
    message = raw(*GOOD)
    message.inputs[0].shape[:] = shape
    return message


def crowd() -> Any:
    message = raw(*GOOD)
    for _ in range(1000):
        message.inputs.add(name="x")
    return message


REFUSED = {
    "raw_and_typed": (RequestInvalid, both()),
    "fewer_raw_than_inputs": (DataShapeMismatch, raw(GOOD[0])),
    "more_raw_than_inputs": (DataShapeMismatch, raw(*GOOD, b"")),
    "short": (DataShapeMismatch, raw(GOOD[0][:-1], GOOD[1])),
    "long": (DataShapeMismatch, raw(GOOD[0] + b"\0", GOOD[1])),
    "no_contents": (DataShapeMismatch, raw()),
    "no_inputs": (DataShapeMismatch, inference_pb2.ModelInferRequest()),
    "twice": (DataShapeMismatch, twice()),
    "many": (RequestInvalid, crowd()),
    "no_rank": (ShapeInvalid, of_shape()),
    "no_rows": (ShapeInvalid, of_shape(0, 2)),
    "negative": (ShapeInvalid, of_shape(-1, 2)),
    "overflow": (RequestInvalid, of_shape(2**62, 2**62)),
    "other_columns": (ShapeInvalid, of_shape(1, 3)),
    "other_rows": (ShapeInvalid, raw(GOOD[0] * 2, GOOD[1], rows=1)),
}


@pytest.mark.parametrize("case", REFUSED)
def test_contradictions_are_refused(case: str) -> None:
    """What does not fit together, or the model, never gets further than the message."""
    kind, message = REFUSED[case]
    if case == "other_rows":
        message.inputs[0].shape[0] = 2

    with pytest.raises(kind):
        MessageVersion(ECHO).read(message)


def test_an_element_reaching_beyond_its_tensor_is_refused() -> None:
    """The length before an element of BYTES is not believed."""
    message = inference_pb2.ModelInferRequest(raw_input_contents=[b"\xff\xff\xff\xffab"])
    message.inputs.add(name="x", datatype="BYTES", shape=[1])

    with pytest.raises(DataShapeMismatch):
        of_one("BYTES").read(message)


def test_parameters_mean_what_they_mean_in_json() -> None:
    """`timeout` is in microseconds, whichever whole-number member carries it."""
    message = raw(*GOOD)
    message.id = "mine"
    message.parameters["timeout"].uint64_param = 1_500_000
    message.parameters["priority"].int64_param = 2

    request = MessageVersion(ECHO).read(message)

    assert (request.request_id, request.timeout_s) == (b"mine", 1.5)


@pytest.mark.parametrize("member", ["bool_param", "string_param", "double_param", None])
def test_parameters_of_another_kind_are_refused(member: str | None) -> None:
    """A timeout that is no whole number is a mistake, and so is one without a value."""
    message = raw(*GOOD)
    parameter = message.parameters["timeout"]
    if member is not None:
        setattr(parameter, member, {"string_param": "1"}.get(member, 1))

    if member is None:
        assert MessageVersion(ECHO).read(message).timeout_s is None
    else:
        with pytest.raises(ParameterInvalid):
            MessageVersion(ECHO).read(message)


def test_no_time_at_all_is_a_deadline_that_passed() -> None:
    """A timeout of zero is not taken for no timeout."""
    message = raw(*GOOD)
    message.parameters["timeout"].int64_param = 0

    with pytest.raises(DeadlineExceeded):
        MessageVersion(ECHO).read(message)


@pytest.mark.parametrize("garbage", [b"\xff", b"\x0a\xff\xff\xff\xff\x0f", b"\x2a\x02\x0a\x09"])
def test_bytes_that_are_no_message_are_refused(garbage: bytes) -> None:
    """Damage is told as such, and by the name of the message."""
    with pytest.raises(MessageInvalid, match="not a ModelInferRequest"):
        parse(garbage, inference_pb2.ModelInferRequest)


def test_a_stream_names_the_request_that_failed() -> None:
    """The error's text, the id of its request, and our code as a parameter."""
    message = stream_error("why", request_id="a", parameters=[("code", "invalid_shape")])

    told = inference_pb2.ModelStreamInferResponse.FromString(message)
    assert (told.error_message, told.infer_response.id) == ("why", "a")
    assert told.infer_response.parameters["code"].string_param == "invalid_shape"


@pytest.mark.parametrize("size", [0, 127, 128, 20_000, 3_000_000])
def test_a_stream_carries_answers_of_any_length(size: int) -> None:
    """An answer is the same message in a stream, with what was added to it."""
    answer = inference_pb2.ModelInferResponse(raw_output_contents=[bytes(size)])

    message = stream_answer(answer.SerializeToString(), [("serving-prediction-id", "x")])

    told = inference_pb2.ModelStreamInferResponse.FromString(message).infer_response
    assert told.raw_output_contents == [bytes(size)]
    assert told.parameters["serving-prediction-id"].string_param == "x"


# -- hostile ---------------------------------------------------------------------------------------


def read_safely(message: bytes) -> InferenceRequest | None:
    """Reads a message as the port does; anything but a refusal fails the test."""
    try:
        return MessageVersion(ECHO).read(parse(message, inference_pb2.ModelInferRequest))
    except ServingError:
        return None


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(message: bytes) -> None:
    """No bytes make the reader fail in another way."""
    read_safely(message)


@given(st.data())
def test_a_damaged_request_is_read_or_refused(data: st.DataObject) -> None:
    """What is still a request after damage is whole: its buffers have the sizes of its shapes."""
    message = bytearray(data.draw(st.sampled_from([raw(*GOOD), typed_pair()])).SerializeToString())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(message) - 1))
        message[place : place + data.draw(st.integers(0, 2))] = data.draw(st.binary(max_size=2))

    request = read_safely(bytes(message))

    if request is not None:
        assert [len(each) for each in request.inputs] == [8 * request.rows, 8 * request.rows]


def typed_pair() -> Message:
    """A request for `ECHO` with typed contents."""
    message = raw()
    message.inputs[0].contents.fp32_contents.extend([1, 2])
    message.inputs[1].contents.int64_contents.append(7)
    return message
