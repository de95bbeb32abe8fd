import json
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from serving.core.tensors import DTYPES, Array, TensorSpecification
from serving.edge.codec import MAX_ID_BYTES, Signature
from serving.errors import RequestInvalid
from tests.edge.port import InferencePort, binary, echo, message, tensor
from tests.edge.wire import Answer, assert_problem
from tests.strategies import Tensor, inference_messages, tensors

FLOATS = ("FP16", "FP32", "FP64")


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> InferencePort:
    """One port for all examples of a property; each publishes the version that it needs."""
    return InferencePort(tmp_path_factory.mktemp("port"))


def version_of(drawn: Tensor, *, variable: bool = False) -> Any:
    row = [-1] * (drawn.array.ndim - 1) if variable else drawn.array.shape[1:]
    return echo(TensorSpecification("x", drawn.datatype, (-1, *row)), finite=False)


def bits(array: Array) -> bytes:
    """The exact bits: -0.0 is not 0.0, and a NaN equals itself."""
    return np.ascontiguousarray(array).tobytes()


def array_of(output: dict[str, Any], datatype: str) -> Array:
    """The output's data as an array; null is NaN."""
    values = [np.nan if value is None else value for value in output["data"]]
    return np.array(values, DTYPES[datatype]).reshape(output["shape"])


def in_json(drawn: Tensor, *, nested: bool) -> dict[str, Any]:
    data = drawn.array if nested else drawn.array.ravel()
    return {"inputs": [tensor("x", drawn.datatype, drawn.array.shape, data.tolist())]}


def in_binary(drawn: Tensor, **members: Any) -> tuple[bytes, str]:
    raw = bits(drawn.array)
    size = {"parameters": {"binary_data_size": len(raw)}}
    return binary(
        {"inputs": [tensor("x", drawn.datatype, drawn.array.shape, **size)], **members}, raw
    )


# -- there and back --------------------------------------------------------------------------------


@given(tensors(), st.booleans(), st.booleans())
@example(Tensor("FP32", np.array([[-0.0, 5e-45]], np.float32)), False, False)
@example(Tensor("INT64", np.array([2**53 + 1, 2**63 - 1, -(2**63)])), False, False)
@example(Tensor("UINT64", np.array([2**64 - 1], np.uint64)), True, False)
def test_json_comes_back_as_it_went(
    shared: InferencePort, drawn: Tensor, nested: bool, variable: bool
) -> None:
    """Any finite tensor survives JSON both ways by the bit, flat or nested, rows fixed or varying."""
    shared.serve(version_of(drawn, variable=variable))

    answer = shared.infer(in_json(drawn, nested=nested))

    (output,) = answer.json()["outputs"]
    assert list(drawn.array.shape) == output["shape"]
    assert bits(drawn.array) == bits(array_of(output, drawn.datatype))


@given(tensors(finite=False))
def test_binary_comes_back_as_it_went(shared: InferencePort, drawn: Tensor) -> None:
    """Any tensor survives the binary form both ways by the bit, NaN and infinities included."""
    shared.serve(version_of(drawn))
    body, header = in_binary(drawn, parameters={"binary_data_output": True})

    answer = shared.infer(body, header)

    length = int(answer.headers["inference-header-content-length"])
    (output,) = json.loads(answer.body[:length])["outputs"]
    assert output["parameters"] == {"binary_data_size": drawn.array.nbytes}
    assert list(drawn.array.shape) == output["shape"]
    assert bits(drawn.array) == answer.body[length:]


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


@pytest.mark.parametrize("datatype", sorted(DTYPES))
def test_large_tensors_are_packed_like_small_ones(shared: InferencePort, datatype: str) -> None:
    """Many values and few go different ways and arrive as the same bits."""
    dtype = DTYPES[datatype]
    array = (np.arange(6000).reshape(3000, 2) % 100 / 4).astype(dtype)
    shared.serve(version_of(Tensor(datatype, array)))

    (output,) = shared.infer(in_json(Tensor(datatype, array), nested=False)).json()["outputs"]

    assert bits(array) == bits(array_of(output, datatype))


@given(inference_messages())
def test_tn_26_no_message_is_a_fault_of_ours(shared: InferencePort, body: bytes) -> None:
    """Whatever looks like a request is answered or refused as the caller's; the log has the same."""
    shared.serve(echo(TensorSpecification("x", "FP32", (-1, -1)), finite=False))
    log = shared.stand.log
    before = (len(log.records), shared.admitted)

    answer = shared.infer(body)

    assert answer.status in (200, 400, 404, 413) or answer.json()["code"] == "deadline_exceeded"
    after = (len(log.records), shared.admitted)
    assert after == tuple(number + (answer.status == 200) for number in before)
    assert shared.stand.pipeline.admission.in_flight == 0


# -- outputs ---------------------------------------------------------------------------------------


def names(answer: Answer) -> list[str]:
    return [output["name"] for output in answer.json()["outputs"]]


@pytest.mark.parametrize("wanted", [["x"], ["n"], ["n", "x"], ["x", "n"], []], ids=str)
def test_requested_outputs_are_honoured(port: InferencePort, wanted: list[str]) -> None:
    """The answer holds the outputs asked for, in that order; asking for none means all."""
    answer = port.infer(message(outputs=[{"name": name} for name in wanted]))

    assert (wanted or ["x", "n"]) == names(answer)


def test_outputs_may_mix_forms(port: InferencePort) -> None:
    """Binary outputs stand behind the JSON in the order of the JSON."""
    wanted = [
        {"name": "n", "parameters": {"binary_data": True}},
        {"name": "x", "parameters": {"binary_data": True}},
    ]
    both = port.infer(message(outputs=wanted))
    wanted[1]["parameters"] = {"binary_data": False}
    one = port.infer(message(outputs=wanted, parameters={"binary_data_output": True}))

    for answer, behind in ((both, 16), (one, 8)):
        length = int(answer.headers["inference-header-content-length"])
        assert answer.headers["content-type"] == "application/octet-stream"
        assert len(answer.body) == length + behind
        assert answer.body[length:][:8] == np.array([7]).tobytes()
    first = json.loads(one.body[:-8])
    assert [output.get("data") for output in first["outputs"]] == [None, [0.5, 0.5]]


@pytest.mark.parametrize(
    ("outputs", "status", "code"),
    [
        ([{"name": "x"}, {"name": "x"}], 400, "invalid_request"),
        ([{"name": "x"}] * 100_000, 400, "invalid_request"),
        ([{"name": "unknown"}], 404, "not_found"),
        ([{"name": "x", "parameters": {"binary_data": "yes"}}], 400, "invalid_parameter"),
        ([{"name": "x", "parameters": {"binary_data": 1}}], 400, "invalid_parameter"),
        ([{}], 400, "invalid_request"),
        (["x"], 400, "invalid_request"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_tn_14_outputs_are_named_once(
    port: InferencePort, outputs: list[Any], status: int, code: str
) -> None:
    """An output that is asked for twice, or does not exist, is refused."""
    assert_problem(port.infer(message(outputs=outputs)), status, code)
    assert port.admitted == 0


# -- shapes ----------------------------------------------------------------------------------------


def with_x(**changes: Any) -> dict[str, Any]:
    """A request whose input x, FP32 with two columns, is changed; None takes a member away."""
    body = message()
    changed = body["inputs"][0] | changes
    body["inputs"][0] = {name: value for name, value in changed.items() if value is not None}
    return body


@pytest.mark.parametrize(
    "shape",
    [[16, 2**60 + 2], [4, 2**60 + 2], [2**60 + 2, 2], [2**26, 2], [2**64, 2], [1, 2**63]],
    ids=str,
)
def test_tn_01_element_counts_never_wrap(port: InferencePort, shape: list[int]) -> None:
    """Counts that overflow any machine word are refused as what they are."""
    assert_problem(port.infer(with_x(shape=shape)), 400, "shape_overflow")


@pytest.mark.parametrize(
    "shape",
    [
        *("[1,-2]", "[-1,2]", "[2.0,2]", '["1",2]', "[true,2]", "[null,2]", "[[1],2]", "[1e0,2]"),
        *('"1,2"', "7", "null", "{}", "[1" + "0" * 5000 + ",2]", "[1,2" + "0" * 4200 + "]"),
    ],
    ids=lambda shape: shape[:12] + str(len(shape)),
)
def test_tn_02_dimensions_are_positive_whole_numbers(port: InferencePort, shape: str) -> None:
    """A dimension is a positive whole number; nothing that merely resembles one will do."""
    body = json.dumps(with_x(shape=[9, 9])).replace("[9, 9]", shape).encode()

    answer = port.infer(body)

    assert_problem(answer, 400, answer.json()["code"])
    assert answer.json()["code"] in ("invalid_shape", "shape_overflow")


def test_tn_02_rows_that_vary_have_no_negative_size(shared: InferencePort) -> None:
    """-1 marks a varying dimension in metadata; in a request it is a number, and wrong."""
    shared.serve(echo(TensorSpecification("x", "FP32", (-1, -1))))
    before = shared.admitted
    for shape, size in ([3, -1], -12), ([-1, 1], -4), ([1, -1], 4):
        parameters = {"binary_data_size": size}
        body, header = binary({"inputs": [tensor("x", "FP32", shape, parameters=parameters)]}, b"")

        assert_problem(shared.infer(body, header), 400, "invalid_shape")
    assert before == shared.admitted


@pytest.mark.parametrize(
    "changes",
    [{"shape": [2, 2]}, {"data": [1.0]}, {"data": [1.0] * 3}, {"data": []}, {"data": None},
     {"data": [[1.0], [2.0]]}, {"data": [[1.0, 2.0, 3.0]]}],
    ids=str,
)  # fmt: skip
def test_tn_03_data_fit_their_shape(port: InferencePort, changes: dict[str, Any]) -> None:
    """Too few or too many values for the shape, or none at all, are refused."""
    assert_problem(port.infer(with_x(**changes)), 400, "data_shape_mismatch")


def test_tn_03_every_input_is_needed_and_no_other(port: InferencePort) -> None:
    """A missing or an additional tensor is refused, and so is a renamed one."""
    inputs = message()["inputs"]
    extra = tensor("z", "FP32", [1, 2], [1.0, 2.0])
    for wrong in ([inputs[0]], [*inputs, extra], [inputs[0], extra], []):
        assert_problem(port.infer({"inputs": wrong}), 400, "invalid_request")


@pytest.mark.parametrize(
    "shape", [[], [2], [1, 2, 1], [1] * 33, [9] * 200_000, [1, 3]], ids=lambda s: str(s)[:12] + str(len(s))
)  # fmt: skip
def test_tn_04_rank_is_the_declared_one(port: InferencePort, shape: list[int]) -> None:
    """A shape of another rank or with another row is refused, soon, however long it is."""
    started = time.monotonic()
    answer = port.infer(with_x(shape=shape))

    assert_problem(answer, 400, "invalid_shape")
    assert time.monotonic() - started < 0.5


def test_tn_04_shape_without_dimensions_is_refused_for_rank_one(port: InferencePort) -> None:
    """An empty shape is no row, even where a row is a single number."""
    body = message()
    body["inputs"][1]["shape"] = []

    assert_problem(port.infer(body), 400, "invalid_shape")


@pytest.mark.parametrize("shape", [[0, 2], [1, 0], [0, 0]], ids=str)
def test_tn_05_empty_tensors_are_refused(shared: InferencePort, shape: list[int]) -> None:
    """A zero dimension is always refused, wherever it stands: there is nothing to infer."""
    shared.serve(echo(TensorSpecification("x", "FP32", (-1, -1))))
    in_json = {"inputs": [tensor("x", "FP32", shape, [])]}
    parameters = {"binary_data_size": 0}
    behind = binary({"inputs": [tensor("x", "FP32", shape, parameters=parameters)]})

    assert_problem(shared.infer(in_json), 400, "invalid_shape")
    assert_problem(shared.infer(*behind), 400, "invalid_shape")


def test_inputs_have_the_same_rows(port: InferencePort) -> None:
    """All inputs of a request speak of the same rows."""
    body = with_x(shape=[2, 2], data=[1.0] * 4)

    assert_problem(port.infer(body), 400, "invalid_shape")


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("literal", ["NaN", "Infinity", "-Infinity"])
@pytest.mark.parametrize("place", ["data", "parameters"])
def test_tn_06_json_has_no_literal_for_it(port: InferencePort, literal: str, place: str) -> None:
    """The literals that some encoders write are refused by their own code."""
    body = with_x(data=[1.0, "?"]) if place == "data" else message(parameters={"a": "?"})

    answer = port.infer(json.dumps(body).replace('"?"', literal).encode())

    assert_problem(answer, 400, "non_finite_literal")


@pytest.mark.parametrize("number", ["1e400", "-1e400", "1e39", "-1e39", "9" * 400, "1" * 5000])
def test_tn_06_numbers_beyond_the_datatype_are_refused(port: InferencePort, number: str) -> None:
    """A number that its datatype cannot hold does not become an infinity."""
    body = json.dumps(with_x(data=[1.0, "?"])).replace('"?"', number).encode()

    assert_problem(port.infer(body), 400, "value_out_of_range")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_tn_07_binary_inputs_are_finite_by_default(shared: InferencePort, value: float) -> None:
    """NaN and infinities in the binary form are refused unless the model allows them."""
    drawn = Tensor("FP32", np.array([[1.0, value]], np.float32))
    body, header = in_binary(drawn)
    shared.serve(echo(TensorSpecification("x", "FP32", (-1, 2))))

    assert_problem(shared.infer(body, header), 400, "non_finite_input")

    shared.serve(version_of(drawn))
    assert shared.infer(body, header).status == 200
    assert bits(shared.stand.log.records[-1].inputs[0].array) == bits(drawn.array)


@pytest.mark.parametrize("rows", [1, 5000])
@pytest.mark.parametrize(
    ("datatype", "value"),
    [
        *(("INT8", 128), ("INT8", -129), ("UINT8", -1), ("UINT8", 256), ("INT16", 2**15)),
        *(("UINT16", 2**16), ("INT32", 2**31), ("UINT32", 2**32), ("INT64", 2**63)),
        *(("UINT64", 2**64), ("UINT64", -1), ("BOOL", 2), ("FP16", 70_000), ("FP32", 1e39)),
    ],
)
def test_tn_09_values_fit_their_datatype(
    shared: InferencePort, datatype: str, value: float, rows: int
) -> None:
    """A value that does not fit is refused; none wraps around, in few values or in many."""
    shared.serve(echo(TensorSpecification("x", datatype, (-1,))))
    ordinary = datatype == "BOOL" or 1
    body = {"inputs": [tensor("x", datatype, [rows], [ordinary] * (rows - 1) + [value])]}

    assert_problem(shared.infer(body), 400, "value_out_of_range")


def test_tn_09_bytes_of_bool_are_zero_or_one(shared: InferencePort) -> None:
    """A binary BOOL is one of two bytes."""
    shared.serve(echo(TensorSpecification("x", "BOOL", (-1,))))
    parameters = {"binary_data_size": 2}
    good, header = binary({"inputs": [tensor("x", "BOOL", [2], parameters=parameters)]}, b"\0\1")

    assert shared.infer(good, header).json()["outputs"][0]["data"] == [False, True]
    assert_problem(shared.infer(good[:-1] + b"\2", header), 400, "value_out_of_range")


@pytest.mark.parametrize(
    ("datatype", "data"),
    [
        *(("fp32", [1.0, 2.0]), ("FP64", [1.0, 2.0]), ("INT32", [1, 2]), ("BYTES", ["a", "b"])),
        *(("BF16", [1.0, 2.0]), ("", [1.0, 2.0]), ("FP32\0", [1.0, 2.0]), ("FP33", [1.0, 2.0])),
    ],
)
def test_tn_10_tn_11_datatype_is_the_declared_one(
    port: InferencePort, datatype: str, data: list[Any]
) -> None:
    """A datatype that is unknown, or not the model's, is refused before the model sees it."""
    assert_problem(port.infer(with_x(datatype=datatype, data=data)), 400, "dtype_mismatch")


@pytest.mark.parametrize(
    "data",
    [["a", "b"], [True, False], [None, 1.0], [{}, 1.0], "1,2", 7, {}, [[1.0], 2.0], [[["a", 1]]]],
    ids=str,
)
def test_tn_11_values_are_of_the_declared_kind(port: InferencePort, data: Any) -> None:
    """What is no number is no number, wherever it stands."""
    assert_problem(port.infer(with_x(data=data)), 400, "dtype_mismatch")


@pytest.mark.parametrize("data", [[1.0], [1.5], ["1"], [True]], ids=str)
def test_whole_numbers_are_written_whole(port: InferencePort, data: list[Any]) -> None:
    """An integer datatype takes JSON integers only."""
    body = message()
    body["inputs"][1]["data"] = data

    assert_problem(port.infer(body), 400, "dtype_mismatch")


@pytest.mark.parametrize("value", [2**53 + 1, 2**63 - 1, -(2**63), -(2**53) - 1])
def test_tn_16_large_integers_are_exact(port: InferencePort, value: int) -> None:
    """INT64 values beyond what a double holds come back exactly."""
    body = message()
    body["inputs"][1]["data"] = [value]

    assert port.infer(body).json()["outputs"][1]["data"] == [value]


def test_tn_17_tensors_are_bounded_in_their_own_datatype(shared: InferencePort) -> None:
    """Bytes are counted as the model would get them, before anything is made of the data."""
    shared.serve(echo(TensorSpecification("x", "FP64", (-1,))))
    at_limit = {"inputs": [tensor("x", "FP64", [2**23], [1])]}
    over = {"inputs": [tensor("x", "FP64", [2**23 + 1], [1])]}

    assert_problem(shared.infer(at_limit), 400, "data_shape_mismatch")
    assert_problem(shared.infer(over), 413, "body_too_large")


# -- the binary form -------------------------------------------------------------------------------


def two_binary(*, json_bytes: int | str | None = None, **sizes: Any) -> tuple[bytes, str]:
    """A request for `ECHO` in binary; sizes: what is said of x and n, 8 bytes each."""
    wrong = {"x": 8, "n": 8} | sizes
    inputs = [
        tensor("x", "FP32", [1, 2], parameters={"binary_data_size": wrong["x"]}),
        tensor("n", "INT64", [1], parameters={"binary_data_size": wrong["n"]}),
    ]
    return binary({"inputs": inputs}, bytes(16), json_bytes=json_bytes)


def test_binary_inputs_may_stand_in_any_order(port: InferencePort) -> None:
    """Binary tensors follow the JSON in its order, which need not be the model's, every time."""
    sizes = {"binary_data_size": 8}
    inputs = [tensor("n", "INT64", [1], parameters=sizes), tensor("x", "FP32", [1, 2], [1.0, 2.0])]
    mixed = binary({"inputs": inputs}, np.array([9]).tobytes())
    inputs[1] = tensor("x", "FP32", [1, 2], parameters=sizes)
    for number in (9, 10, 11):
        numbers = np.array([1.0, number], np.float32).tobytes()
        only = binary({"inputs": inputs}, np.array([number]).tobytes(), numbers)

        outputs = port.infer(*only).json()["outputs"]

        assert [output["data"] for output in outputs] == [[1.0, number], [number]]
    outputs = port.infer(*mixed).json()["outputs"]
    assert [output["data"] for output in outputs] == [[1.0, 2.0], [9]]


def test_repeated_binary_request_is_checked_like_the_first(port: InferencePort) -> None:
    """Bodies behind a JSON part that is known still have to be as long as it says."""
    body, header = two_binary()
    assert port.infer(body, header).status == 200

    for wrong in (body[:-1], body + b"x", body[:-8], body[:-16]):
        assert_problem(port.infer(wrong, header), 400, "data_shape_mismatch")
    assert port.infer(body, header).status == 200


@pytest.mark.parametrize(
    "length", ["-1", "99999999999", "1" * 400, "a", "", "1.0", "0x10", "+5", "10000", "5", "0"]
)
def test_tn_12_length_of_the_json_is_checked(port: InferencePort, length: str) -> None:
    """The header that parts JSON and data must be a length within the body, and the right one."""
    body, header = two_binary(json_bytes=length)

    answer = port.infer(body, header)

    assert_problem(answer, 400, answer.json()["code"])
    assert port.infer(*two_binary()).status == 200


@pytest.mark.parametrize(
    "sizes",
    [{"x": 7}, {"x": 9}, {"x": 0}, {"x": -8}, {"x": 16, "n": 0}, {"n": 2**63}, {"x": 8.0},
     {"x": "8"}, {"x": True}, {"x": None}],
    ids=str,
)  # fmt: skip
def test_tn_13_sizes_fit_shape_and_datatype(port: InferencePort, sizes: dict[str, Any]) -> None:
    """A binary tensor is as many bytes as its shape says, no more, no fewer, never negative."""
    assert_problem(port.infer(*two_binary(**sizes)), 400, "data_shape_mismatch")
    assert port.admitted == 0


@pytest.mark.parametrize(
    "change", [b"", b"x", b"x" * 8], ids=["short", "one over", "a tensor over"]
)
def test_tn_13_nothing_is_missing_or_left_over(port: InferencePort, change: bytes) -> None:
    """The data end where the last tensor ends."""
    body, header = two_binary()

    assert_problem(
        port.infer(body + change if change else body[:-1], header), 400, "data_shape_mismatch"
    )


def test_tn_13_binary_data_have_one_place(port: InferencePort) -> None:
    """A tensor has its data in JSON or behind it, not both; behind it only when a length parts them."""
    twice = with_x(parameters={"binary_data_size": 8})
    body, header = binary(twice, bytes(8))

    assert_problem(port.infer(body, header), 400, "data_shape_mismatch")
    assert_problem(port.infer(two_binary()[0][:-16]), 400, "data_shape_mismatch")


def test_tn_14_inputs_are_named_once(port: InferencePort) -> None:
    """A tensor that is given twice is refused, also when it takes the place of another."""
    inputs = message()["inputs"]
    for wrong in ([inputs[0], inputs[0]], [*inputs, inputs[0]]):
        assert_problem(port.infer({"inputs": wrong}), 400, "invalid_request")


# -- JSON ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "template",
    ['{"inputs":%b}', '{"inputs":[],"unused":%b}', '{"inputs":[{"data":%b}]}', '{"parameters":{"a":%b}}'],
)  # fmt: skip
@pytest.mark.parametrize("deep", [b"[" * 250_000, b'{"a":' * 250_000, b"[" * 9000 + b"]" * 9000])
def test_tn_18_deep_documents_are_refused_soon(
    port: InferencePort, template: str, deep: bytes
) -> None:
    """Nesting beyond all sense is refused in no time, in a field that is read or not."""
    started = time.monotonic()
    answer = port.infer(template.encode() % deep)

    assert time.monotonic() - started < 0.1
    assert_problem(answer, 400, answer.json()["code"])
    assert answer.json()["code"] in ("json_too_deep", "invalid_request")


def test_tn_19_many_keys_take_bounded_time(port: InferencePort) -> None:
    """Hundreds of thousands of keys, or one long string, are read in bounded time."""
    keys = {f"k{number}": number for number in range(300_000)}
    started = time.monotonic()
    answers = [
        port.infer(message(unused=keys)),
        port.infer(message(parameters=keys)),
        port.infer(message(unused="a" * 8_000_000)),
    ]

    assert time.monotonic() - started < 5
    assert [answer.status for answer in answers] == [200, 200, 200]


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"\\ud800","inputs":[]}', b'\xef\xbb\xbf{"inputs":[]}', '{"inputs":[]}'.encode("utf-16"),
        b'{"id":"\xff","inputs":[]}', b'{"inputs":[]}{"inputs":[]}', b'{"inputs":[]} x',
        b"", b"  \n", b'{"inputs":[', b"{'inputs':[]}", b'{"inputs":[],}', b'{"inputs":[01]}',
    ],
)  # fmt: skip
def test_tn_20_tn_21_only_one_valid_document_is_read(port: InferencePort, body: bytes) -> None:
    """What is not exactly one JSON document in UTF-8 is refused as such."""
    answer = port.infer(body)

    assert_problem(answer, 400, "invalid_json")


@pytest.mark.parametrize("body", [b"[]", b"7", b"null", b'"a"', b"{}", b'{"inputs":{}}'])
def test_tn_21_a_message_is_an_object_with_inputs(port: InferencePort, body: bytes) -> None:
    """Valid JSON that is no inference request is refused as that."""
    assert_problem(port.infer(body), 400, "invalid_request")


# -- id and timeout --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_id", ["a", "a b", "\u00e9\u4e2d\U0001f600"[:2], "x" * MAX_ID_BYTES]
)
def test_id_is_echoed(port: InferencePort, request_id: str) -> None:
    """Any printable id of bounded length comes back as it was."""
    assert port.infer(message(id=request_id)).json()["id"] == request_id


@pytest.mark.parametrize(
    "request_id",
    ["x" * (MAX_ID_BYTES + 1), "x" * 10_240, "\u00e9" * 129, "a\nb", "a\0b", "\u202e", "\x1b[31m"],
    ids=lambda value: ascii(value)[:12] + str(len(value)),
)
def test_tn_24_id_is_bounded_and_printable(port: InferencePort, request_id: str) -> None:
    """An id that is too long, or that would disturb a log, is refused."""
    assert_problem(port.infer(message(id=request_id)), 400, "invalid_parameter")


@pytest.mark.parametrize("request_id", [7, None, ["a"], {}], ids=str)
def test_tn_24_id_is_a_string(port: InferencePort, request_id: Any) -> None:
    """An id of another kind is no id."""
    assert_problem(port.infer(message(id=request_id)), 400, "invalid_request")


@pytest.mark.parametrize("timeout", [-1, 1.5, "1", True, [1]], ids=str)
def test_tn_25_timeout_is_a_whole_number(port: InferencePort, timeout: Any) -> None:
    """A timeout parameter that is no number of microseconds is refused."""
    answer = port.infer(message(parameters={"timeout": timeout}))

    assert_problem(answer, 400, answer.json()["code"])


def test_tn_25_no_time_is_over_at_once_in_the_body_too(port: InferencePort) -> None:
    """A timeout of zero answers 504 without any work by the model."""
    assert_problem(port.infer(message(parameters={"timeout": 0})), 504, "deadline_exceeded")
    assert (port.admitted, port.replica.frames) == (0, [])


@pytest.mark.parametrize("digits", [1, 30, 4000])
def test_tn_25_long_timeouts_are_fine(port: InferencePort, digits: int) -> None:
    """However long a caller would wait, the request is answered."""
    assert port.infer(message(parameters={"timeout": int("9" * digits)})).status == 200


@pytest.mark.parametrize("parameters", [{"a": [1]}, {"a": {}}, [], "a"], ids=str)
def test_parameters_are_flat(port: InferencePort, parameters: Any) -> None:
    """Parameters are numbers, strings and booleans by name, as the protocol says."""
    assert_problem(port.infer(message(parameters=parameters)), 400, "invalid_request")


def test_unknown_members_are_ignored(port: InferencePort) -> None:
    """What the protocol may yet add does no harm."""
    body = message(later=[1, {"a": None}], parameters={"later": "x", "other": None})

    assert port.infer(body).status == 200


def test_refusals_repeat_nothing_of_the_input() -> None:
    """No message quotes names, values or members that the caller sent."""
    signature = Signature(echo(TensorSpecification("x", "FP32", (-1, 2))))
    theirs = "their-own-words"
    wrongs: Sequence[dict[str, Any]] = [
        {"inputs": [tensor(theirs, "FP32", [1, 2], [1.0, 2.0])]},
        {"inputs": [tensor("x", theirs, [1, 2], [1.0, 2.0])]},
        {"inputs": [tensor("x", "FP32", [theirs, 2], [1.0, 2.0])]},
        {"inputs": [tensor("x", "FP32", [1, 2], [theirs, 2.0])]},
        {"inputs": [tensor("x", "FP32", [1, 2], [1.0, 2.0])], "parameters": {theirs: [theirs]}},
        {"inputs": [tensor("x", "FP32", [1, 2], [1.0, 2.0])], "id": f"{theirs}\n"},
    ]
    for wrong in wrongs:
        with pytest.raises(RequestInvalid) as caught:
            signature.decode(memoryview(json.dumps(wrong).encode()), None)
        assert theirs not in caught.value.message
