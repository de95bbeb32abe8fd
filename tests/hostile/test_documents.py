"""TN-12 to TN-15 and TN-18 to TN-25: what stands around the tensors, and in the target."""

from typing import Any
from urllib.parse import quote

import numpy as np
import pytest

from serving.core.principals import Role
from tests.edge.port import binary, tensor
from tests.edge.wire import assert_problem, request
from tests.hostile.asking import JSON, infer, recorded, refused, with_x
from tests.hostile.cases import Case
from tests.places import a_row

SOON_S = 0.1
BOUNDED_S = 2.0
"""Processor time of the worker: for what is refused at sight, and for what must be read first."""

MODELS = "/v2/models"


def behind(size: Any = 8, *, json_bytes: int | str | None = None) -> tuple[bytes, str]:
    """A row for the doubler in binary; size: what is said of it, 8 bytes."""
    x = tensor("x", "FP32", [1, 2], parameters={"binary_data_size": size})
    raw = np.array([1.0, 2.0], np.float32).tobytes()
    return binary({"inputs": [x]}, raw, json_bytes=json_bytes)


# -- the binary form -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "length", ["-1", "99999999999", "1" * 400, "a", "", "1.0", "0x10", "+5", "10000", "5", "0"]
)
def test_tn_12_length_of_the_json_is_checked(case: Case, length: str) -> None:
    """The header that parts JSON and data must be a length within the body, and the right one."""
    answer = infer(case, *behind(json_bytes=length))

    assert_problem(answer, 400, answer.json()["code"])
    assert infer(case, *behind()).status == 200


def test_tn_13_sizes_fit_shape_and_datatype(case: Case) -> None:
    """A binary tensor is as many bytes as its shape says, no more, no fewer, never negative."""
    for size in (7, 9, 0, -8, 16, 2**63, 2**70, 8.0, "8", True, None, 12):
        answer = infer(case, *behind(size))

        assert_problem(answer, 400, "data_shape_mismatch")


def test_tn_13_nothing_is_missing_or_left_over(case: Case) -> None:
    """The data end where the last tensor ends."""
    body, header = behind()

    for wrong in (body[:-1], body + b"x", body + body[-8:], body[:-8]):
        assert_problem(infer(case, wrong, header), 400, "data_shape_mismatch")


def test_tn_13_binary_data_have_one_place(case: Case) -> None:
    """A tensor has its data in JSON or behind it, not both; behind it only when a length parts them."""
    twice = with_x(parameters={"binary_data_size": 8})

    assert_problem(infer(case, *binary(twice, bytes(8))), 400, "data_shape_mismatch")
    refused(case, behind()[0][:-8], "data_shape_mismatch")


@pytest.mark.parametrize("datatype", [">FP32", "FP32_BE", "float32-be"])
def test_tn_13_bytes_have_one_order(case: Case, datatype: str) -> None:
    """There is no way to declare another order of bytes than little-endian."""
    x = tensor("x", datatype, [1, 2], parameters={"binary_data_size": 8})

    assert_problem(infer(case, *binary({"inputs": [x]}, bytes(8))), 400, "dtype_mismatch")


# -- names -----------------------------------------------------------------------------------------


def test_tn_14_inputs_are_named_once(case: Case) -> None:
    """A tensor that is given twice is refused."""
    body = a_row(1.0)

    refused(case, body | {"inputs": body["inputs"] * 2}, "data_shape_mismatch")


@pytest.mark.parametrize(
    ("outputs", "code"),
    [
        ([{"name": "y"}, {"name": "y"}], "invalid_request"),
        ([{"name": "y"}] * 1_000_000, "invalid_request"),
        ([{"name": "unknown"}], "invalid_request"),
        ([{"name": "y", "parameters": {"binary_data": "yes"}}], "invalid_parameter"),
        ([{"name": "y", "parameters": {"classification": -1}}], "invalid_parameter"),
        ([{"name": "y", "parameters": {"classification": 1.5}}], "invalid_parameter"),
        ([{}], "invalid_request"),
        (["y"], "invalid_request"),
    ],
    ids=lambda value: str(value)[:60],
)
def test_tn_14_outputs_are_named_once(case: Case, outputs: list[Any], code: str) -> None:
    """An output that is asked for twice, or does not exist, is refused, soon."""
    used_s = case.product.cpu_s()

    refused(case, a_row(1.0) | {"outputs": outputs}, code)
    assert case.product.cpu_s() - used_s < BOUNDED_S


# -- JSON ------------------------------------------------------------------------------------------

ROW = b'{"inputs":[{"name":"x","shape":[1,2],"datatype":"FP32","data":[1,2]}]}'


@pytest.mark.parametrize(
    ("member", "twice"),
    [
        (b'"shape":[1,2]', b'"shape":[9,9],"shape":[1,2]'),
        (b'"shape":[1,2]', b'"shape":[1,2],"sh\\u0061pe":[1,2]'),
        (b'"name":"x"', b'"name":"x","name":"x"'),
        (b'"datatype":"FP32"', b'"datatype":"BYTES","datatype":"FP32"'),
        (b'"data":[1,2]', b'"data":[1,2],"data":[1,2]'),
        (b'"data":[1,2]', b'"data":[3,4], "data" : [1,2]'),
        (b'"inputs":', b'"inputs":[],"inputs":'),
        (b'"inputs":', b'"id":"1","id":"2","inputs":'),
        (b'"inputs":', b'"parameters":{"a":1,"a":2},"inputs":'),
        (b'"inputs":', b'"parameters":{},"parameters":{},"inputs":'),
        (b'"inputs":', b'"unknown":{"a":[{"b":1,"b":1}]},"inputs":'),
        (b'"inputs":', b'"unknown":{"data":[1,2]},"unknown":{"data":[1,2]},"inputs":'),
    ],
    ids=lambda value: value.decode()[:40],
)
def test_tn_15_no_member_is_there_twice(case: Case, member: bytes, twice: bytes) -> None:
    """An object with two members of one name says two things: it is refused, however it is written."""
    assert infer(case, ROW).status == 200
    body = ROW.replace(member, twice, 1)
    assert body != ROW

    refused(case, body, "duplicate_key")
    refused(case, body, "duplicate_key")


def test_tn_15_the_log_holds_what_was_used(case: Case) -> None:
    """What looks like a known text, but has data elsewhere, is read anew."""
    decoy = ROW.replace(b'"inputs":', b'"unknown":{"data":[1,2]},"inputs":')
    for body in (ROW, decoy, ROW, decoy.replace(b'":{"data":[1,2]', b'":{"data":[3,4]')):
        answer = infer(case, body)
        assert answer.json()["outputs"][0]["data"] == [2.0, 4.0]
        assert recorded(case, answer).inputs[0].array.tolist() == [[1.0, 2.0]]


@pytest.mark.parametrize(
    "template",
    ['{"inputs":%b}', '{"inputs":[],"unused":%b}', '{"inputs":[{"data":%b}]}', '{"parameters":{"a":%b}}'],
)  # fmt: skip
@pytest.mark.parametrize("deep", [b"[" * 250_000, b'{"a":' * 250_000, b"[" * 9000 + b"]" * 9000])
def test_tn_18_deep_documents_are_refused_soon(case: Case, template: str, deep: bytes) -> None:
    """Nesting beyond all sense is refused in no time, in a field that is read or not."""
    used_s = case.product.cpu_s()
    answer = infer(case, template.encode() % deep)

    assert case.product.cpu_s() - used_s < SOON_S
    assert_problem(answer, 400, answer.json()["code"])
    assert answer.json()["code"] in ("json_too_deep", "invalid_request")


@pytest.mark.parametrize(("depth", "status"), [(63, 200), (64, 400), (640, 400)])
def test_tn_18_depth_is_limited(case: Case, depth: int, status: int) -> None:
    """64 levels, the message's own among them, and no more, also where nobody reads them."""
    unused = b'"unused":' + b"[" * depth + b"]" * depth + b',"inputs":'

    answer = infer(case, ROW.replace(b'"inputs":', unused))

    assert status == answer.status
    assert status == 200 or answer.json()["code"] == "json_too_deep"


@pytest.mark.parametrize(
    ("members", "status", "code"),
    [
        ({"unused": {f"k{n}": n for n in range(9_990)}}, 200, None),
        ({"unused": {f"k{n}": n for n in range(10_001)}}, 400, "invalid_request"),
        ({"parameters": {f"k{n}": n for n in range(100_000)}}, 400, "invalid_request"),
        ({"parameters": {f"k{n}": n for n in range(800_000)}}, 400, "invalid_request"),
        ({"unused": "a" * 2**20}, 200, None),
        ({"unused": "a" * (2**20 + 1)}, 400, "invalid_request"),
        ({"unused": "a" * (10 * 2**20)}, 400, "invalid_request"),
        ({"unused": "a" * (17 * 2**20)}, 413, "body_too_large"),
    ],
    ids=["keys", "one more", "ten times", "many", "string", "one byte more", "ten", "too long"],
)
def test_tn_19_keys_and_strings_are_bounded(
    case: Case, members: dict[str, Any], status: int, code: str | None
) -> None:
    """However many keys or however long a string: read or refused in bounded time."""
    used_s = case.product.cpu_s()

    answer = infer(case, a_row(1.0) | members)

    assert case.product.cpu_s() - used_s < BOUNDED_S
    assert (status, code) == (answer.status, answer.json().get("code"))


@pytest.mark.parametrize(
    "body",
    [
        b'{"id":"\\ud800","inputs":[]}', b"\xef\xbb\xbf" + ROW, ROW.decode().encode("utf-16"),
        ROW.decode().encode("utf-16-be"), b'{"id":"\xff","inputs":[]}', ROW + ROW, ROW + b" x",
        ROW.replace(b'"inputs"', b'"unused":"\xff","inputs"'), ROW.replace(b'"inputs"', b'"\xff":1,"inputs"'),
        ROW.replace(b'"inputs"', b'"unused":"\\udc00","inputs"'),
        b'{"inputs":[', b"{'inputs':[]}", b'{"inputs":[],}', b'{"inputs":[01]}', ROW + b"\0",
    ],
)  # fmt: skip
def test_tn_20_only_one_valid_document_is_read(case: Case, body: bytes) -> None:
    """What is not exactly one JSON document in UTF-8 is refused as such."""
    refused(case, body, "invalid_json")


def test_tn_21_a_message_is_an_object_with_inputs(case: Case) -> None:
    """Nothing, and valid JSON that is no inference request, are refused."""
    for body in (b"", b"  \n", b"\r\n\t "):
        refused(case, body, "invalid_json")
    for body in (b"[]", b"7", b"null", b'"a"', b"true", b"{}", b'{"inputs":{}}', b"[" + ROW + b"]"):
        refused(case, body, "invalid_request")


# -- target, id, time ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["a/b", "..", "../doubler", "a\0", "a" * 300, "\U0001f600", "\u202edoubler", "%2e%2e", "x y"],
    ids=ascii,
)
def test_tn_22_odd_model_names_lead_nowhere(case: Case, name: str) -> None:
    """A model's name is looked up and nothing else: no path, no label of a metric."""
    raw = request(
        "POST", f"{MODELS}/{quote(name, safe='')}/infer", case.product.authorization, JSON, body=ROW
    )

    answer = case.ask_one(raw)

    assert answer.status in (400, 404), answer
    assert name not in case.product.status().get("queues", {})


@pytest.mark.parametrize("version", ["latest ", "1.0", "01", "-1", "1" + "0" * 30, "", "1\0", "2"])
def test_tn_23_versions_are_names(case: Case, version: str) -> None:
    """A version is looked up by its exact name, also by who may name one."""
    operator = f"Authorization: Bearer {case.product.instance.token(Role.OPERATOR)}"
    target = f"{MODELS}/doubler/versions/{quote(version, safe='')}/infer"

    answer = case.ask_one(request("POST", target, operator, JSON, body=ROW))

    assert answer.status in (400, 404), answer


def test_tn_24_id_is_bounded_and_printable(case: Case) -> None:
    """An id that is too long, or that would disturb a log, is refused; another kind is no id."""
    for request_id in ("x" * 257, "x" * 10_240, "\u00e9" * 129, "a\nb", "a\0b", "\u202e", "\x1b[m"):
        refused(case, a_row(1.0) | {"id": request_id}, "invalid_parameter")
    others: list[Any] = [7, None, ["a"], {}]
    for other in others:
        refused(case, a_row(1.0) | {"id": other}, "invalid_request")


def test_tn_24_an_id_names_and_does_not_identify(case: Case) -> None:
    """Ids are the caller's own: each request with a repeated one is a prediction with its own record."""
    first, second = (infer(case, a_row(number) | {"id": "7"}) for number in (1.0, 2.0))

    for answer, doubled in ((first, 2.0), (second, 4.0)):
        assert (answer.json()["id"], answer.json()["outputs"][0]["data"][0]) == ("7", doubled)
        assert recorded(case, answer).request_id == "7"


@pytest.mark.parametrize(
    ("value", "status"),
    [("0", 504), ("000", 504), ("-1", 400), ("NaN", 400), ("", 400), ("1e3", 400), ("1" + "0" * 12, 200)],
)  # fmt: skip
def test_tn_25_time_is_a_whole_number(case: Case, value: str, status: int) -> None:
    """No time is over at once, without any work; too much is clamped; anything else is refused."""
    assert status == infer(case, ROW, f"serving-timeout-ms: {value}").status


def test_tn_25_time_in_the_body_is_a_whole_number(case: Case) -> None:
    """The protocol's own parameter is read by the same rules."""
    for timeout in (-1, 1.5, "1", True):
        refused(case, a_row(1.0, timeout=timeout), "invalid_parameter")
    refused(case, a_row(1.0, timeout=0), "deadline_exceeded", 504)
    for digits in (13, 30, 4000):
        assert infer(case, a_row(1.0, timeout=int("9" * digits))).status == 200
