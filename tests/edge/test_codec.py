import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.elements import join_elements
from serving.core.tensors import DTYPES, TensorSpecification
from serving.edge.codec import Signature
from serving.edge.decoding import MAX_ID_BYTES, WireTensor
from serving.errors import DataShapeMismatch, RequestInvalid, ShapeInvalid
from tests.edge.port import InferencePort, binary, echo, message, tensor
from tests.edge.wire import Answer, assert_problem, parse_answers

AS_BINARY = {"binary_data_output": True}
ONE_THIRD = np.array([0x3EAB], "<u2").view(DTYPES["BF16"])
"""A BF16: 0.333984375."""


def serving(port: InferencePort, datatype: str, *shape: int, batched: bool = True) -> InferencePort:
    """The port with a version that echoes one tensor `x`."""
    port.serve(echo(TensorSpecification("x", datatype, shape, batched=batched), finite=False))
    return port


def x(datatype: str, shape: Sequence[int], data: Any = None, **members: Any) -> dict[str, Any]:
    return {"inputs": [tensor("x", datatype, shape, data)]} | members


def x_binary(datatype: str, shape: Sequence[int], raw: bytes, **members: Any) -> tuple[bytes, str]:
    parameters = {"binary_data_size": len(raw)}
    return binary({"inputs": [tensor("x", datatype, shape, parameters=parameters)]} | members, raw)


def parted(answer: Answer) -> tuple[list[dict[str, Any]], bytes]:
    """The outputs in the JSON part, and the bytes behind it."""
    length = int(answer.headers["inference-header-content-length"])
    return json.loads(answer.body[:length])["outputs"], answer.body[length:]


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


def test_numbers_of_bf16_are_binary_only(port: InferencePort) -> None:
    """BF16 has no JSON form, neither in a request nor in an answer, named or not."""
    serving(port, "BF16", -1)
    raw = ONE_THIRD.tobytes()

    assert_problem(port.infer(x("BF16", [1], [0.5], parameters=AS_BINARY)), 400, "dtype_mismatch")
    assert_problem(port.infer(*x_binary("BF16", [1], raw)), 400, "dtype_mismatch")
    named = port.infer(*x_binary("BF16", [1], raw, outputs=[{"name": "x"}]))
    assert_problem(named, 400, "dtype_mismatch")
    assert port.admitted == 0
    (output,), behind = parted(port.infer(*x_binary("BF16", [1], raw, parameters=AS_BINARY)))
    assert (output["datatype"], behind) == ("BF16", raw)


@pytest.mark.parametrize("bits", [0x7F80, 0xFF80, 0x7FC1])
def test_bf16_is_finite_by_default(port: InferencePort, bits: int) -> None:
    """NaN and infinities are found in BF16 as in other floats."""
    port.serve(echo(TensorSpecification("x", "BF16", (-1,))))

    answer = port.infer(*x_binary("BF16", [1], bits.to_bytes(2, "little"), parameters=AS_BINARY))

    assert_problem(answer, 400, "non_finite_input")


# -- strings ---------------------------------------------------------------------------------------


def test_strings_of_a_frame_are_cut_by_rows(port: InferencePort) -> None:
    """Requests that share a frame each get their own strings, in JSON and in binary."""
    serving(port, "BYTES", -1, 2)
    texts = [["a", ""], ["bc", "def"], ["", "\u00e9"]]
    raw = [join_elements([text.encode() for text in row]) for row in texts]
    in_json = [port.inference(x("BYTES", [1, 2], row)) for row in texts]
    in_binary = [
        port.inference(*x_binary("BYTES", [1, 2], part, parameters=AS_BINARY)) for part in raw
    ]

    transports = port.send(*in_json, *in_binary)

    told = [answer for each in transports for answer in parse_answers(each.written)]
    assert [answer.json()["outputs"][0]["data"] for answer in told[:3]] == texts
    assert [parted(answer)[1] for answer in told[3:]] == raw
    recorded = [it.inputs[0].array[0].tolist() for it in port.stand.log.records]
    assert recorded == [[text.encode() for text in row] for row in texts] * 2


def test_strings_that_json_cannot_hold_are_null(tmp_path: Path) -> None:
    """An output element that is not UTF-8 is null in JSON and whole in binary."""
    odd = np.array([[b"\xff"], [b"ok"]], object)
    port = InferencePort(tmp_path, function=lambda _inputs: [odd])
    serving(port, "BYTES", -1, 1)

    body = x("BYTES", [2, 1], ["a", "b"])
    (output,) = port.infer(body).json()["outputs"]
    _, behind = parted(port.infer(body | {"parameters": AS_BINARY}))

    assert output["data"] == [None, "ok"]
    assert behind == join_elements([b"\xff", b"ok"])


@pytest.mark.parametrize(
    "raw",
    [b"", b"\1\0\0\0", b"\2\0\0\0a", b"\1\0\0\0ab", b"\xff\xff\xff\xffa", b"\1\0\0\0a\0\0\0\0", b"\0\0\0"],
    ids=repr,
)  # fmt: skip
def test_strings_in_binary_are_as_many_as_the_shape_says(port: InferencePort, raw: bytes) -> None:
    """Lengths that do not add up to that of the tensor are refused."""
    answer = serving(port, "BYTES", -1).infer(*x_binary("BYTES", [1], raw))

    assert_problem(answer, 400, "data_shape_mismatch")


def test_strings_are_looked_at_in_every_body(port: InferencePort) -> None:
    """A known JSON part does not vouch for what lies behind it."""
    serving(port, "BYTES", -1)
    body, header = x_binary("BYTES", [1], b"\1\0\0\0a")

    for _ in range(2):
        assert port.infer(body, header).status == 200
        assert_problem(port.infer(body[:-1] + b"\xff", header), 400, "value_out_of_range")


# -- classes ---------------------------------------------------------------------------------------


def classes(count: int, **parameters: Any) -> dict[str, Any]:
    return {"outputs": [{"name": "x", "parameters": {"classification": count} | parameters}]}


def test_classes_are_the_best_of_each_row(port: InferencePort) -> None:
    """As many as asked for, best first, `value:index`; equal ones in the order of their indices."""
    serving(port, "FP32", -1, -1)
    body = x("FP32", [2, 4], [0.25, 3, -1, 3, 1e-7, 0, 2, 1])

    (output,) = port.infer(body | classes(3)).json()["outputs"]
    (head,), behind = parted(port.infer(body | classes(3, binary_data=True)))

    expected = ["3.000000:1", "3.000000:3", "0.250000:0", "2.000000:2", "1.000000:3", "0.000000:0"]
    assert output == {"name": "x", "datatype": "BYTES", "shape": [2, 3], "data": expected}
    assert behind == join_elements([text.encode() for text in expected])
    assert head["parameters"] == {"binary_data_size": len(behind)}


def test_classes_of_whole_numbers_are_whole(port: InferencePort) -> None:
    """Integers are ranked and written exactly; there are no more classes than elements."""
    serving(port, "INT64", -1, 2)

    (output,) = port.infer(x("INT64", [1, 2], [2**53, 2**53 + 1]) | classes(9)).json()["outputs"]

    assert (output["shape"], output["data"]) == ([1, 2], [f"{2**53 + 1}:1", f"{2**53}:0"])


def test_classes_of_what_is_no_number_come_last(port: InferencePort) -> None:
    """A NaN ranks behind every number."""
    raw = np.array([[np.nan, -np.inf, 1]], np.float64).tobytes()

    answer = serving(port, "FP64", -1, 3).infer(*x_binary("FP64", [1, 3], raw, **classes(3)))

    assert answer.json()["outputs"][0]["data"] == ["1.000000:2", "-inf:1", "nan:0"]


def test_classes_of_nothing_are_none(port: InferencePort) -> None:
    """A row without elements has no classes; zero classes are the tensor itself."""
    serving(port, "FP32", -1, -1)

    assert port.infer(x("FP32", [2, 0], []) | classes(1)).json()["outputs"][0]["shape"] == [2, 0]
    assert port.infer(x("FP32", [1, 1], [1]) | classes(0)).json()["outputs"][0]["data"] == [1.0]


@pytest.mark.parametrize("datatype", ["BOOL", "BYTES", "BF16"])
def test_classes_need_numbers(port: InferencePort, datatype: str) -> None:
    """Datatypes without an order have no classes."""
    raw = {"BOOL": b"\1", "BYTES": b"\0\0\0\0", "BF16": b"\0\0"}[datatype]

    answer = serving(port, datatype, -1).infer(*x_binary(datatype, [1], raw, **classes(1)))

    assert_problem(answer, 400, "dtype_mismatch")


# -- shapes ----------------------------------------------------------------------------------------


def test_inputs_have_the_same_rows(port: InferencePort) -> None:
    """All inputs of a request speak of the same rows."""
    body = message()
    body["inputs"][0] |= {"shape": [2, 2], "data": [1.0] * 4}

    assert_problem(port.infer(body), 400, "invalid_shape")


def test_an_input_stands_for_no_other(port: InferencePort) -> None:
    """An input that is given twice does not make up for one that is missing."""
    first = message()["inputs"][0]

    assert_problem(port.infer({"inputs": [first, first]}), 400, "invalid_request")


@pytest.mark.parametrize("shape", [[1, 0], [2, 0, 3], [3, 4, 0]], ids=str)
def test_rows_may_be_empty(port: InferencePort, shape: list[int]) -> None:
    """A dimension of size 0 that the model admits is answered, nested, flat and in binary."""
    serving(port, "FP32", *([-1] * len(shape)))
    nested = np.empty(shape).tolist()

    for body in (x("FP32", shape, []), x("FP32", shape, nested)):
        (output,) = port.infer(body).json()["outputs"]
        assert (output["shape"], output["data"]) == (shape, [])
    (output,) = port.infer(*x_binary("FP32", shape, b"")).json()["outputs"]
    assert output["shape"] == shape


def test_empty_rows_are_bounded(port: InferencePort) -> None:
    """What takes no bytes is still bounded."""
    serving(port, "FP32", -1, -1, -1)

    assert_problem(port.infer(x("FP32", [2**20, 0, 2**20], [])), 400, "shape_overflow")


@pytest.mark.parametrize(
    ("declared", "shape", "data"),
    [
        *(((), [], [7.0]), ((3,), [3], [1.0, 2.0, 3.0]), ((0,), [0], []), ((-1, 2), [0, 2], [])),
        *(((-1,), [2], [1.0, 2.0]), ((2, -1), [2, 1], [[1.0], [2.0]]), ((1, 1), [1, 1], [[5.0]])),
    ],
    ids=str,
)
def test_whole_shapes_have_no_rows(
    port: InferencePort, declared: tuple[int, ...], shape: list[int], data: Any
) -> None:
    """A version without rows takes and answers its declared shape, a scalar and nothing included."""
    serving(port, "FP32", *declared, batched=False)
    flat = np.array(data, np.float32)

    answers = [
        port.infer(x("FP32", shape, data)),
        port.infer(x("FP32", shape, flat.ravel().tolist())),
        port.infer(*x_binary("FP32", shape, flat.tobytes())),
    ]
    (head,), behind = parted(port.infer(x("FP32", shape, data, parameters=AS_BINARY)))

    for answer in answers:
        (output,) = answer.json()["outputs"]
        assert (output["shape"], output["data"]) == (shape, flat.ravel().tolist())
    assert (head["shape"], behind) == (shape, flat.tobytes())
    assert [record.rows for record in port.stand.log.records] == [1] * 4


@pytest.mark.parametrize("shape", [[], [1], [1, 3], [3, 1], [-3], [4]], ids=str)
def test_whole_shapes_are_the_declared_ones(port: InferencePort, shape: list[int]) -> None:
    """A version without rows takes no additional dimension for them."""
    serving(port, "FP32", 3, batched=False)

    assert_problem(port.infer(x("FP32", shape, [1.0, 2.0, 3.0])), 400, "invalid_shape")


def test_whole_shapes_need_not_agree() -> None:
    """The first dimensions of two inputs without rows mean different things."""
    inputs = [TensorSpecification(name, "INT8", (-1,), batched=False) for name in "ab"]
    wires = [WireTensor("a", "INT8", [1], b"1"), WireTensor("b", "INT8", [2], b"12")]

    request = Signature(echo(*inputs)).decode_tensors(wires)

    assert (request.rows, request.shapes) == (1, ((1,), (2,)))


@pytest.mark.parametrize(
    "name", ["a:0", "a/b/../c", "\u00e9 \U0001f600", '"', "\\u0061", "", "data"]
)
def test_names_are_only_compared(port: InferencePort, name: str) -> None:
    """Whatever a model calls its tensors, they are found and answered by that name."""
    port.serve(echo(TensorSpecification(name, "INT8", (-1,))))
    inputs = [tensor(name, "INT8", [2], [1, 2])]

    for members in ({}, {"outputs": [{"name": name}]}):
        for _ in range(2):
            answer = port.infer({"inputs": inputs, **members})
            assert answer.json()["outputs"] == [
                {"name": name, "datatype": "INT8", "shape": [2], "data": [1, 2]}
            ]


@pytest.mark.parametrize("datatype", sorted(DTYPES.keys() - {"BF16", "BYTES"}))
def test_large_tensors_are_packed_like_small_ones(port: InferencePort, datatype: str) -> None:
    """Many values and few go different ways and arrive as the same bits."""
    array = (np.arange(6000).reshape(3000, 2) % 100 / 4).astype(DTYPES[datatype])
    serving(port, datatype, -1, 2)

    (output,) = port.infer(x(datatype, [3000, 2], array.ravel().tolist())).json()["outputs"]

    assert np.array(output["data"], array.dtype).tobytes() == array.tobytes()


# -- single tensors --------------------------------------------------------------------------------


def test_single_tensors_are_checked_like_others() -> None:
    """A tensor that comes by itself has to fit its declaration, too."""
    signature = Signature(echo(TensorSpecification("x", "FP32", (-1, 2))))
    good = WireTensor("x", "FP32", [1, 2], bytes(8))
    wrong: list[tuple[list[WireTensor], type[RequestInvalid]]] = [
        ([], DataShapeMismatch),
        ([good, good], DataShapeMismatch),
        ([good._replace(name="y")], DataShapeMismatch),
        ([good._replace(datatype="INT32")], RequestInvalid),
        ([good._replace(shape=[2])], ShapeInvalid),
        ([good._replace(shape=[0, 2], data=b"")], ShapeInvalid),
        ([good._replace(data=bytes(7))], DataShapeMismatch),
    ]

    assert signature.decode_tensors([good]).rows == 1
    for tensors, error in wrong:
        with pytest.raises(error):
            signature.decode_tensors(tensors)


# -- known texts -----------------------------------------------------------------------------------


def test_a_known_text_is_read_like_a_new_one(port: InferencePort) -> None:
    """What stands around the numbers is remembered; the numbers are read anew each time."""
    serving(port, "FP32", -1, 2)
    plain = json.dumps(x("FP32", [1, 2], ["?"])).replace('["?"]', "%s")

    for spaced in ("%s", " \n%s\t"):
        for numbers in ("[1, 2]", "[3,4e0]", "[ -0.0,1e-45 ]", "[5,6]"):
            (output,) = port.infer((plain % (spaced % numbers)).encode()).json()["outputs"]
            assert (
                np.array(output["data"], np.float32).tobytes()
                == np.array(json.loads(numbers), np.float32).tobytes()
            )


def test_a_known_text_may_be_nested(port: InferencePort) -> None:
    """Nested numbers in a known text have the shape that it names, or are refused."""
    serving(port, "INT8", -1, 2)
    text = json.dumps(x("INT8", [2, 2], ["?"])).replace('["?"]', "%s")

    for numbers in ("[[1,2],[3,4]]", "[[5,6], [7,8]]", "[9,8,7,6]", "[ [5,4],[3,2] ]"):
        (output,) = port.infer((text % numbers).encode()).json()["outputs"]
        assert output["data"] == np.ravel(json.loads(numbers)).tolist()
    for numbers in ("[[1,2,3,4]]", "[[1,2],[3]]", "[[1],[2],[3],[4]]"):
        assert_problem(port.infer((text % numbers).encode()), 400, "data_shape_mismatch")
    assert_problem(port.infer((text % "[[1,2],[3,128]]").encode()), 400, "value_out_of_range")


def test_a_known_text_has_an_id_of_its_own(port: InferencePort) -> None:
    """Requests that differ in their ids and numbers alone each get their own back."""
    serving(port, "INT8", -1)
    for number, name in enumerate(("a", "b c", '"', "\\", "\u00e9", "d", "", "e" * 256)):
        answer = port.infer(x("INT8", [1], [number], id=name)).json()
        assert (answer.get("id", ""), answer["outputs"][0]["data"]) == (name, [number])
    assert_problem(port.infer(x("INT8", [1], [1], id="f" * 257)), 400, "invalid_parameter")


def test_another_id_is_no_id(port: InferencePort) -> None:
    """A member called id elsewhere is not taken for the request's."""
    serving(port, "INT8", -1)
    for first, second in (("a", ""), ("", "a"), ("b", "c"), ("", "")):
        answer = port.infer(x("INT8", [1], [1], id=first, parameters={"id": second}))
        assert answer.json().get("id", "") == first
    for name in ("a", "b"):
        assert "id" not in port.infer(x("INT8", [1], [1], parameters={"id": name})).json()


@pytest.mark.parametrize(
    ("numbers", "code"),
    [
        *(("[1]", "data_shape_mismatch"), ("[1,2,3]", "data_shape_mismatch")),
        *(("[[1],[2]]", "data_shape_mismatch"), ("[true,1]", "dtype_mismatch")),
        *(("[1,1e39]", "value_out_of_range"), ("[1,NaN]", "non_finite_literal")),
        *(("[1,2", "invalid_json"), ("[1,2]]", "invalid_json"), ("[1,02]", "invalid_json")),
        *(('[1,2],"data":[3,4]', "duplicate_key"), ('[3,4],"a":[1,2],"a":1', "duplicate_key")),
        *(("[]", "data_shape_mismatch"), ("", "invalid_json"), ("[1 2]", "invalid_json")),
    ],
)
def test_a_known_text_vouches_for_nothing(port: InferencePort, numbers: str, code: str) -> None:
    """Wrong numbers in a text that is known are refused as they would be in a new one."""
    serving(port, "FP32", -1, 2)
    text = json.dumps(x("FP32", [1, 2], ["?"])).replace('["?"]', "%s")
    wrong = (text % numbers).encode()

    before = port.infer(wrong).json()["code"]
    assert port.infer((text % "[1,2]").encode()).status == 200
    assert (before, port.infer(wrong).json()["code"]) == (code, code)


def test_known_texts_are_bounded(port: InferencePort) -> None:
    """However many texts callers send, requests are answered and each with its own number."""
    serving(port, "INT32", -1)
    for number in range(1100):
        body = x("INT32", [1], [number], parameters={f"p{number}": number})
        assert port.infer(body).json()["outputs"][0]["data"] == [number]


# -- values ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("data", [[1.0], [1.5], ["1"], [True]], ids=str)
def test_whole_numbers_are_written_whole(port: InferencePort, data: list[Any]) -> None:
    """An integer datatype takes JSON integers only."""
    body = message()
    body["inputs"][1]["data"] = data

    assert_problem(port.infer(body), 400, "dtype_mismatch")


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


# -- id and timeout --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_id", ["a", "a b", "\u00e9\u4e2d\U0001f600"[:2], "x" * MAX_ID_BYTES]
)
def test_id_is_echoed(port: InferencePort, request_id: str) -> None:
    """Any printable id of bounded length comes back as it was."""
    assert port.infer(message(id=request_id)).json()["id"] == request_id


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
