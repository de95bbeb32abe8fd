import struct

import numpy as np
import pytest

from serving.core.elements import join_elements
from serving.core.predictions import Fate
from serving.predictionlog.format import Definition, TensorShape, encode_definition
from serving.predictionlog.records import (
    BodyInvalid,
    decode_definition,
    decode_prediction,
    definition_text,
    encode_predictions,
)
from tests.logs import DOUBLER, NOW_NS, a_request, facts


def test_a_record_comes_back_as_it_was_given() -> None:
    """Every fact of the request and its batch, and both tensors bit for bit, are in the frame."""
    request = a_request(0x2A, rows=3)
    request.trace_id, request.shadow_of = bytes(range(16)), 9

    [frame] = encode_predictions(facts(), [request])
    found = decode_prediction(frame, 0, definition=DOUBLER, log_id="0" * 16)

    assert (found.prediction_id, found.shadow_of) == ("0000000000000000-2a", "0000000000000000-9")
    assert (found.time_ns, found.principal, found.request_id) == (NOW_NS, "tester", "r-1")
    assert (found.queue_us, found.run_us, found.total_us) == (11, 22, 33)
    assert (found.batch_id, found.batch_size, found.policy_epoch) == (5, 4, 7)
    assert (found.fate, found.reason, found.rows) == (Fate.OK, "", 3)
    assert found.trace_id == bytes(range(16)).hex()
    assert (found.model, found.version, found.digest) == ("doubler", "1", "ab" * 32)
    np.testing.assert_array_equal(found.inputs[0].array, [[42, 43], [44, 45], [46, 47]])
    np.testing.assert_array_equal(found.outputs[0].array * 1, found.inputs[0].array * 2)


def test_a_failure_is_recorded_without_outputs() -> None:
    """A failed request keeps its inputs and says why it failed."""
    definition = Definition("doubler", "1", "ab" * 32, DOUBLER.inputs, ())
    request = a_request(1)
    request.outputs = ()

    [frame] = encode_predictions(facts(fate=Fate.TIMEOUT, reason=b"deadline_exceeded"), [request])
    found = decode_prediction(frame, 0, definition=definition, log_id="")

    assert (found.fate, found.reason, found.outputs) == (Fate.TIMEOUT, "deadline_exceeded", ())


@pytest.mark.parametrize("size", [0, 1, 65_432, 65_433, 1_000_000])
def test_payloads_of_any_size_are_kept(size: int) -> None:
    """Empty, tiny and large payloads, on both ways through the encoder, come back unchanged."""
    definition = Definition("m", "1", "", (TensorShape("x", "UINT8", (size,)),), ())
    request = a_request(1)
    request.inputs, request.outputs = (memoryview(bytes(7) * (size // 7 + 1))[:size],), ()  # type: ignore[assignment]

    [frame] = encode_predictions(facts(), [request])

    assert (
        decode_prediction(frame, 0, definition=definition, log_id="").inputs[0].array.size == size
    )
    assert len(frame) == struct.unpack_from("<I", frame)[0]


def test_a_definition_comes_back_as_it_was_given() -> None:
    """A definition frame holds the definition, its number and the place of the one before."""
    frame = encode_definition(77, definition_text(DOUBLER), before=300)

    assert decode_definition(frame, 0) == (77, 300, DOUBLER)


def test_tensors_that_do_not_fill_the_frame_are_refused() -> None:
    """A record that contradicts its definition is never handed out."""
    [frame] = encode_predictions(facts(), [a_request(1)])
    larger = Definition("doubler", "1", "", (TensorShape("x", "FP32", (200,)),), ())
    smaller = Definition("doubler", "1", "", (TensorShape("x", "FP32", (1,)),), ())

    for definition in (larger, smaller):
        with pytest.raises(BodyInvalid):
            decode_prediction(frame, 0, definition=definition, log_id="")


STRINGS = Definition("m", "1", "", (TensorShape("t", "BYTES", (2,)),), ())


def test_strings_come_back_exactly() -> None:
    """Elements of BYTES are recorded with their lengths: empty ones, long ones, any bytes."""
    values = [b"", b"\0\xff", b"x" * 70_000, "\u00e9".encode()]
    request = a_request(1, rows=2)
    request.inputs, request.outputs = (join_elements(values),), ()

    [frame] = encode_predictions(facts(), [request])
    found = decode_prediction(frame, 0, definition=STRINGS, log_id="")

    assert found.inputs[0].array.tolist() == [values[:2], values[2:]]


@pytest.mark.parametrize("values", [[b"a"], [b"a", b"b", b"c"], []], ids=len)
def test_strings_of_another_number_are_refused(values: list[bytes]) -> None:
    """A record with too few elements, or too many, is never handed out."""
    request = a_request(1)
    request.inputs, request.outputs = (join_elements(values),), ()
    [frame] = encode_predictions(facts(), [request])

    with pytest.raises(BodyInvalid):
        decode_prediction(frame, 0, definition=STRINGS, log_id="")


def test_a_datatype_of_the_future_is_told() -> None:
    """Tensors whose datatype this program does not know cannot be parted, and it says so."""
    future = Definition("m", "1", "", (TensorShape("t", "FP4", (2,)),), ())
    [frame] = encode_predictions(facts(), [a_request(1)])

    with pytest.raises(BodyInvalid, match="FP4"):
        decode_prediction(frame, 0, definition=future, log_id="")
