import json
from dataclasses import replace

import msgspec
import numpy as np
import pytest

from serving.core.predictions import NamedTensor, PredictionRecord
from serving.core.tensors import DTYPES, Array
from serving.predictionlog.reading.rendering import (
    MAX_ELEMENTS,
    printable,
    record_json,
    record_line,
    time_text,
)
from serving.predictionlog.records import decode_prediction, encode_predictions
from tests.logs import DOUBLER, a_request, facts


@pytest.fixture
def record() -> PredictionRecord:
    [frame] = encode_predictions(facts(), [a_request(1, rows=2)])
    return decode_prediction(frame, 0, definition=DOUBLER, log_id="ab" * 8)


def parsed(record: PredictionRecord, *, full: bool = False) -> dict[str, object]:
    """Through strict JSON, as a program would read it."""
    text = msgspec.json.encode(record_json(record, full=full))
    values: dict[str, object] = json.loads(text, parse_constant=pytest.fail)
    return values


def with_input(record: PredictionRecord, array: Array) -> PredictionRecord:
    datatype = next(name for name, dtype in DTYPES.items() if dtype == array.dtype)
    return replace(record, inputs=(NamedTensor("x", datatype, array),))


def test_tensors_are_nested_lists(record: PredictionRecord) -> None:
    """A program gets each tensor with its name, datatype, shape and rows."""
    assert parsed(record)["inputs"] == [
        {"name": "x", "datatype": "FP32", "shape": [2, 2], "data": [[1.0, 2.0], [3.0, 4.0]]}
    ]


@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - {"BF16", "BYTES"}))
def test_every_datatype_has_a_json_form(record: PredictionRecord, datatype: str) -> None:
    """No datatype of the protocol fails to print, and the numbers are the recorded ones."""
    array = np.asarray([[0, 1], [1, 0]]).astype(DTYPES[datatype])

    [tensor] = record_json(with_input(record, array), full=False)["inputs"]

    assert (tensor["datatype"], tensor["data"]) == (datatype, array.tolist())


def test_strings_are_strings(record: PredictionRecord) -> None:
    """Elements of BYTES are text where they are UTF-8, and base64 where they are not."""
    array = np.array([["\u00e9".encode(), b""], [b"\xff\0", b"a"]], object)

    assert parsed(with_input(record, array))["inputs"] == [
        {"name": "x", "datatype": "BYTES", "shape": [2, 2],
         "data": [["\u00e9", ""], [{"base64": "/wA="}, "a"]]}
    ]  # fmt: skip


def test_brain_floats_are_numbers(record: PredictionRecord) -> None:
    """BF16 is shown as the number that its bits stand for."""
    array = np.array([[0x3F80, 0xC020], [0x7FC0, 0xFF80]], "<u2").view(DTYPES["BF16"])

    assert parsed(with_input(record, array))["inputs"] == [
        {"name": "x", "datatype": "BF16", "shape": [2, 2],
         "data": [[1.0, -2.5], ["NaN", "-Infinity"]]}
    ]  # fmt: skip


def test_what_json_cannot_say_is_spelled(record: PredictionRecord) -> None:
    """NaN and infinities are strings; the line is valid JSON for any parser."""
    array = np.asarray([[np.nan, np.inf], [-np.inf, 1]], "<f4")

    values = parsed(with_input(record, array))["inputs"]

    assert values[0]["data"] == [["NaN", "Infinity"], ["-Infinity", 1.0]]  # type: ignore[index]


def test_long_tensors_are_cut_unless_asked_for(record: PredictionRecord) -> None:
    """A long tensor is cut, and says so; `full` gives all of it."""
    long = with_input(record, np.zeros((3, MAX_ELEMENTS), "<f4"))

    [cut] = record_json(long, full=False)["inputs"]
    [whole] = record_json(long, full=True)["inputs"]

    assert (len(cut["data"]), cut["truncated"], cut["shape"]) == (MAX_ELEMENTS, True, [3, 1024])
    assert np.shape(whole["data"]) == (3, MAX_ELEMENTS)


def test_a_caller_cannot_write_to_the_terminal(record: PredictionRecord) -> None:
    """Control characters and bidirectional overrides in a caller's name are escaped."""
    line = record_line(replace(record, principal="\x1b[2J\n\u202eevil"))

    assert line.isprintable()
    assert "evil" in line


def test_times_are_iso() -> None:
    """Times are ISO 8601 in UTC, from the earliest to the latest that a record can hold."""
    assert time_text(1_700_000_000_123_456_789) == "2023-11-14T22:13:20.123456Z"
    assert time_text(-1_000_000_000) == "1969-12-31T23:59:59.000000Z"
    assert time_text(-(2**63)) == "1677-09-21T00:12:43.145224Z"
    assert time_text(2**63 - 1) == "2262-04-11T23:47:16.854775Z"


def test_printable_text_is_left_alone() -> None:
    """Names in any script stay as they are."""
    assert printable("Zoë 张") == "Zoë 张"
