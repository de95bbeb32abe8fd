"""TN-01 to TN-11, TN-16 and TN-17: shapes, counts, values and datatypes, to the last bit."""

import json
from typing import Any

import numpy as np
import pytest

from tests.edge.port import binary, tensor
from tests.edge.wire import assert_problem
from tests.hostile.asking import infer, recorded, refused, with_x
from tests.hostile.cases import Case
from tests.hostile.kinds import KINDS, kinds, name_of
from tests.places import a_row

SOON_S = 0.2
"""Processor time of the worker for a request that is refused."""


def placed(body: dict[str, Any], literal: str) -> bytes:
    """The body with `literal`, which need not be JSON, in place of every string "?"."""
    return json.dumps(body).replace('"?"', literal).encode()


def echoed(case: Case, datatype: str, value: Any) -> tuple[Any, Any]:
    """What `kinds` answers to one value, and the element that is recorded as its input."""
    data_of: dict[str, Any] = {datatype: [value]}
    answer = infer(case, kinds(**data_of), target=KINDS)
    outputs = {output["datatype"]: output["data"] for output in answer.json()["outputs"]}
    (data,) = outputs[datatype]
    return data, _input(recorded(case, answer), datatype).item()


# -- shapes ----------------------------------------------------------------------------------------


def test_tn_01_counts_never_wrap(case: Case) -> None:
    """Counts of elements or bytes that overflow any machine word are refused as what they are."""
    for shape in (
        *([16, 2**60 + 2], [4, 2**60 + 2], [2**60 + 2, 2], [2**26, 2], [2**64, 2], [1, 2**63]),
        *([0, 2**60], [2**32, 2**32], [2**62, 4]),
    ):
        code = "invalid_shape" if not shape[0] else "shape_overflow"
        refused(case, with_x(shape=shape), code)


@pytest.mark.parametrize(
    "shape",
    [
        *("[1,-2]", "[-1,2]", "[2.0,2]", '["1",2]', "[true,2]", "[null,2]", "[[1],2]", "[1e0,2]"),
        *('"1,2"', "7", "null", "{}", "[1" + "0" * 5000 + ",2]", "[1,2" + "0" * 4200 + "]"),
        *("[9223372036854775808,2]", "[18446744073709551616,2]"),
    ],
    ids=lambda shape: shape[:12] + str(len(shape)),
)
def test_tn_02_dimensions_are_whole_numbers(case: Case, shape: str) -> None:
    """A dimension is a whole number that is not negative; nothing that merely resembles one will do."""
    answer = infer(case, placed(with_x(shape="?"), shape))

    assert_problem(answer, 400, answer.json()["code"])
    assert answer.json()["code"] in ("invalid_shape", "shape_overflow")


def test_tn_03_data_fit_their_shape(case: Case) -> None:
    """Too few or too many values for the shape, or none at all, are refused."""
    wrong: list[dict[str, Any]] = [
        *({"shape": [2, 2]}, {"data": [1.0]}, {"data": [1.0] * 3}, {"data": []}, {"data": None}),
        *({"data": [[1.0], [2.0]]}, {"data": [[1.0, 2.0, 3.0]]}, {"data": [[1.0, 2.0]] * 2}),
    ]
    for changes in wrong:
        refused(case, with_x(**changes), "data_shape_mismatch")


def test_tn_03_every_input_is_needed_and_no_other(case: Case) -> None:
    """A missing or an additional tensor is refused, and so is a renamed one."""
    (x,) = a_row(1.0)["inputs"]
    extra = x | {"name": "z"}

    refused(case, {"inputs": []}, "data_shape_mismatch")
    refused(case, {"inputs": [x, extra]}, "data_shape_mismatch")
    refused(case, {"inputs": [extra]}, "data_shape_mismatch")


@pytest.mark.parametrize(
    "shape", [[], [2], [1, 2, 1], [1] * 33, [9] * 200_000, [1, 3]], ids=lambda s: f"{len(s)}"
)
def test_tn_04_rank_is_the_declared_one(case: Case, shape: list[int]) -> None:
    """A shape of another rank or with another row is refused, soon, however long it is."""
    used_s = case.product.cpu_s()

    refused(case, with_x(shape=shape), "invalid_shape")
    assert case.product.cpu_s() - used_s < SOON_S


def test_tn_05_no_rows_are_no_request(case: Case) -> None:
    """A request without rows is refused, always with the same code, in JSON and in binary."""
    refused(case, with_x(shape=[0, 2], data=[]), "invalid_shape")
    refused(case, with_x(shape=[1, 0], data=[]), "invalid_shape")
    assert_problem(infer(case, kinds(0), target=KINDS), 400, "invalid_shape")
    x = tensor("x", "FP32", [0, 2], parameters={"binary_data_size": 0})
    assert_problem(infer(case, *binary({"inputs": [x]})), 400, "invalid_shape")


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
def test_tn_06_literals_that_json_lacks_are_refused(case: Case, literal: str) -> None:
    """The literals that some encoders write are refused by their own code."""
    refused(case, placed(with_x(data=[1.0, "?"]), literal), "non_finite_literal")
    refused(case, placed(a_row(1.0, a="?"), literal), "non_finite_literal")


def test_tn_06_numbers_beyond_the_datatype_are_refused(case: Case) -> None:
    """A number that its datatype cannot hold does not become an infinity."""
    for number in ("1e400", "-1e400", "1e39", "-1e39", "9" * 400, "1" * 5000):
        refused(case, placed(with_x(data=[1.0, "?"]), number), "value_out_of_range")


def test_tn_06_small_numbers_keep_their_bits(case: Case) -> None:
    """-0.0 and denormals come back, and are recorded, as they were sent."""
    values = [-0.0, 5e-324, -5e-324, 2.2250738585072014e-308]

    told, kept = zip(*(echoed(case, "FP64", value) for value in values), strict=True)

    assert np.array(told).tobytes() == np.array(kept).tobytes() == np.array(values).tobytes()


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tn_07_binary_inputs_are_finite_by_default(case: Case, value: float) -> None:
    """NaN and infinities in the binary form are refused unless the model allows them."""
    x = tensor("x", "FP32", [1, 2], parameters={"binary_data_size": 8})
    raw = np.array([1.0, value], np.float32).tobytes()

    answer = infer(case, *binary({"inputs": [x]}, raw))

    assert_problem(answer, 400, "non_finite_input")


@pytest.mark.parametrize("bits", [0x7FF8000000000001, 0x7FF0000000000000, 0xFFF0000000000000])
def test_tn_07_models_may_allow_what_is_not_finite(case: Case, bits: int) -> None:
    """Where the model allows them, NaN and infinities are used and recorded by the bit."""
    raw = bits.to_bytes(8, "little")
    body = kinds()
    (index,) = [i for i, it in enumerate(body["inputs"]) if it["datatype"] == "FP64"]
    body["inputs"][index] = tensor(name_of("FP64"), "FP64", [1], parameters={"binary_data_size": 8})

    answer = infer(case, *binary(body, raw), target=KINDS)

    outputs = {output["datatype"]: output["data"] for output in answer.json()["outputs"]}
    assert outputs["FP64"] == [None]
    assert _input(recorded(case, answer), "FP64").tobytes() == raw


def test_tn_08_infinite_answers_are_null_in_json(case: Case) -> None:
    """An output that overflows is null in JSON, and exact in the record and in binary."""
    body = a_row(-3e38, 1.0)
    in_binary = body | {"outputs": [{"name": "y", "parameters": {"binary_data": True}}]}

    assert infer(case, body).json()["outputs"][0]["data"] == [None, 2.0]
    answer = infer(case, in_binary)
    assert answer.body[-8:] == np.array([-np.inf, 2.0], np.float32).tobytes()
    assert recorded(case, answer).outputs[0].array.tobytes() == answer.body[-8:]


@pytest.mark.parametrize("rows", [1, 5000])
def test_tn_09_values_fit_their_datatype(case: Case, rows: int) -> None:
    """A value that does not fit is refused; none wraps around, in few values or in many."""
    for datatype, value in (
        *(("INT8", 128), ("INT8", -129), ("UINT8", -1), ("UINT8", 256), ("INT16", 2**15)),
        *(("UINT16", 2**16), ("INT32", 2**31), ("UINT32", 2**32), ("INT64", 2**63)),
        *(("UINT64", 2**64), ("UINT64", -1), ("BOOL", 2), ("FP16", 70_000), ("FP64", 10**400)),
    ):
        ordinary = datatype == "BOOL" or 1
        body = kinds(rows, **{datatype: [ordinary] * (rows - 1) + [value]})

        answer = infer(case, body, target=KINDS)

        assert_problem(answer, 400, "value_out_of_range")


# -- datatypes -------------------------------------------------------------------------------------


def test_tn_10_unknown_datatypes_are_refused(case: Case) -> None:
    """A datatype that is unknown, or spelled otherwise, is not the model's."""
    for datatype in ("fp32", "Fp32", "FP32 ", "FP32\0", "FP33", "", "float32", "BF16", "BYTES"):
        refused(case, with_x(datatype=datatype), "dtype_mismatch")


def test_tn_10_strings_are_kept_exactly(case: Case) -> None:
    """A string comes back, and is recorded, with its NUL, its control characters, its length."""
    for text in ("", "\0", "a\0b\0", "\u2028\x1b[31m\u202e", '"\\', "\U0001f600", "x" * 2**20):
        assert echoed(case, "BYTES", text) == (text, text.encode())


@pytest.mark.parametrize("raw", [b"\xff", b"\xc0\xae", b"\xed\xa0\x80", b"a\xe2\x80"])
def test_tn_10_strings_are_utf_8(case: Case, raw: bytes) -> None:
    """An element of BYTES that is no UTF-8 is refused, in JSON and in binary."""
    in_json = json.dumps(kinds(BYTES=["?"])).encode().replace(b"?", raw)
    body = kinds()
    body["inputs"][-1] = tensor(
        name_of("BYTES"), "BYTES", [1], parameters={"binary_data_size": 4 + len(raw)}
    )
    behind = binary(body, len(raw).to_bytes(4, "little") + raw)

    assert_problem(infer(case, in_json, target=KINDS), 400, "invalid_json")
    assert_problem(infer(case, *behind, target=KINDS), 400, "value_out_of_range")


def test_tn_10_strings_are_bounded(case: Case) -> None:
    """A JSON string of more than 1 MiB is refused, one over or ten times over."""
    for size in (2**20 + 1, 10 * 2**20):
        answer = infer(case, kinds(BYTES=["x" * size]), target=KINDS)

        assert_problem(answer, 400, "value_out_of_range")


def test_tn_11_datatype_is_the_declared_one(case: Case) -> None:
    """A datatype of the protocol that is not the model's is refused before the model sees it."""
    for datatype, data in (("FP64", [1.0, 2.0]), ("INT32", [1, 2]), ("BYTES", ["a", "b"])):
        refused(case, with_x(datatype=datatype, data=data), "dtype_mismatch")


def test_tn_11_values_are_of_the_declared_kind(case: Case) -> None:
    """What is no number is no number, wherever it stands."""
    wrong: list[Any] = [
        *(["a", "b"], [True, False], [None, 1.0], [{}, 1.0], "1,2", 7, {}, [[1.0], 2.0]),
        [[["a", 1]]],
    ]
    kinds_of_wrong: list[dict[str, Any]] = [
        *({"INT64": [1.5]}, {"INT8": ["1"]}, {"UINT8": [True]}, {"BOOL": ["true"]}),
        *({"BYTES": [1]}, {"BYTES": [None]}),
    ]
    for data in wrong:
        refused(case, with_x(data=data), "dtype_mismatch")
    for changes in kinds_of_wrong:
        assert_problem(infer(case, kinds(**changes), target=KINDS), 400, "dtype_mismatch")


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63), -(2**53) - 1])
def test_tn_16_large_integers_are_exact(case: Case, value: int) -> None:
    """INT64 values beyond what a double holds come back, and are recorded, exactly."""
    assert echoed(case, "INT64", value) == (value, value)


def test_tn_17_tensors_are_bounded_in_their_own_datatype(case: Case) -> None:
    """Bytes are counted as the model would get them, before anything is made of the data."""
    limit = 64 * 1024 * 1024 // 8
    used_s = case.product.cpu_s()

    refused(case, with_x(shape=[limit, 2], data=[1]), "data_shape_mismatch")
    for rows in (limit + 1, 4 * limit):
        refused(case, with_x(shape=[rows, 2], data=[1]), "body_too_large", 413)
    assert case.product.cpu_s() - used_s < SOON_S


def _input(record: Any, datatype: str) -> Any:
    (found,) = [it.array for it in record.inputs if it.datatype == datatype]
    return found
