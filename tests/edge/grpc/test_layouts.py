"""Messages that were read before: the same bytes mean the same request, by whichever way."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from serving.core.models import ModelVersion
from serving.core.tensors import TensorSpecification
from serving.edge.grpc.inference_pb2 import ModelInferRequest
from serving.edge.grpc.layouts import MessageLayouts, varint
from serving.edge.grpc.messages import MessageVersion, parse
from serving.gateway.calls import InferenceRequest
from tests.plans import a_version

PAIR = replace(
    a_version(),
    inputs=(
        TensorSpecification("a", "FP32", (-1, 2)),
        TensorSpecification("b", "INT64", (-1,)),
    ),
)


def message(rows: int, *, swapped: bool = False) -> ModelInferRequest:
    """A raw request to `PAIR`. swapped: its tensors in the other order."""
    request = ModelInferRequest(model_name="doubler")
    tensors = [("a", "FP32", [rows, 2], bytes(8 * rows)), ("b", "INT64", [rows], bytes(8 * rows))]
    for name, datatype, shape, data in reversed(tensors) if swapped else tensors:
        request.inputs.add(name=name, datatype=datatype, shape=shape)
        request.raw_input_contents.append(data)
    return request


def request_with_data(request: ModelInferRequest) -> ModelInferRequest:
    changed = ModelInferRequest()
    changed.CopyFrom(request)
    for index, data in enumerate(request.raw_input_contents):
        changed.raw_input_contents[index] = bytes([index + 1]) * len(data)
    return changed


def learned(
    layouts: MessageLayouts, version: MessageVersion, content: bytes
) -> InferenceRequest | None:
    """Reads a message the slow way, and keeps what can be kept."""
    parsed = parse(content, ModelInferRequest)
    layout = layouts.learn(content, parsed)
    request = version.read(parsed)
    if layout is not None:
        version.remember(layout, request)
    return request


def known(
    layouts: MessageLayouts, version: MessageVersion, content: bytes
) -> InferenceRequest | None:
    """What is known of a message without reading it."""
    layout = layouts.find(content)
    return None if layout is None else version.cut(content, layout)


@given(st.integers(1, 40), st.booleans())
def test_a_known_message_is_cut_as_it_would_be_read(rows: int, swapped: bool) -> None:
    """Other data behind the same beginning, in either order of the tensors."""
    layouts, version = MessageLayouts(), MessageVersion(PAIR)
    first = message(rows, swapped=swapped)
    second = request_with_data(first)
    learned(layouts, version, first.SerializeToString())

    assert known(layouts, version, second.SerializeToString()) == version.read(second)


@given(st.binary(max_size=64), st.data())
def test_no_other_message_is_taken_for_a_known_one(junk: bytes, data: st.DataObject) -> None:
    """A message that was changed anywhere but in its data means what a reading of it says."""
    layouts, version = MessageLayouts(), MessageVersion(PAIR)
    content = message(3).SerializeToString()
    learned(layouts, version, content)
    at = data.draw(st.integers(0, len(content)))
    changed = content[:at] + junk + content[at + len(junk) :]

    found = known(layouts, version, changed)
    assert found is None or found == version.read(parse(changed, ModelInferRequest))


@pytest.mark.parametrize(
    "members", [{"id": "x"}, {"parameters": {"priority": 1}}, {"parameters": {"subject": "s"}}]
)
def test_what_differs_from_request_to_request_is_not_kept(members: dict[str, object]) -> None:
    """An id, a priority, a subject."""
    layouts, version = MessageLayouts(), MessageVersion(PAIR)
    request = message(1)
    request.id = str(members.get("id", ""))
    for name, value in dict(members.get("parameters", {})).items():  # type: ignore[call-overload]
        field = "int64_param" if isinstance(value, int) else "string_param"
        setattr(request.parameters[name], field, value)
    content = request.SerializeToString()
    learned(layouts, version, content)

    assert known(layouts, version, content) is None


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES"])
def test_elements_that_must_be_looked_at_are(datatype: str) -> None:
    """Data that could be no values are read each time."""
    version: ModelVersion = replace(
        a_version(), inputs=(TensorSpecification("x", datatype, (-1, 4)),)
    )
    wire, layouts = MessageVersion(version), MessageLayouts()
    request = ModelInferRequest(model_name="doubler")
    request.inputs.add(name="x", datatype=datatype, shape=[1, 4])
    request.raw_input_contents.append(bytes(4 if datatype == "BOOL" else 16))
    content = request.SerializeToString()
    learned(layouts, wire, content)

    assert known(layouts, wire, content) is None


def test_a_field_that_looks_like_tensors_is_none() -> None:
    """Bytes of another field that end like raw tensors do not hide where that field began."""
    tensor = message(1).raw_input_contents[0]
    tail = b"\x3a" + varint(len(tensor)) + tensor
    honest = message(1).SerializeToString()
    # Field 100, which nobody knows, holds a copy of the tensors.
    copies = tail + tail
    content = honest + b"\xa2\x06" + varint(len(copies)) + copies

    assert MessageLayouts().learn(content, parse(content, ModelInferRequest)) is None


def test_typed_requests_have_no_layout() -> None:
    """Their elements are part of the message."""
    request = ModelInferRequest(model_name="doubler")
    request.inputs.add(name="x", datatype="FP32", shape=[1, 2]).contents.fp32_contents.extend(
        [1, 2]
    )
    content = request.SerializeToString()

    assert MessageLayouts().learn(content, request) is None
