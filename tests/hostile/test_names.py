"""TN-22, TN-23 and TN-25: names, versions and deadlines that are none."""

from typing import Final

import orjson
import pytest

from serving.core.principals import Role
from tests.edge.wire import Answer, assert_problem, request
from tests.hostile.cases import Case
from tests.places import a_row

BODY: Final = orjson.dumps(a_row(1.0))
NAMES: Final = {
    "slash": "a%2Fb",
    "parent": "..",
    "encoded-parent": "%2e%2e",
    "path": "%2e%2e%2f%2e%2e%2fetc%2fpasswd",
    "absolute": "%2Fetc%2Fpasswd",
    "nul": "%00",
    "nul-behind": "doubler%00",
    "300": "a" * 300,
    "4000": "a" * 4000,
    "emoji": "%F0%9F%98%80",
    "bidi": "%E2%80%AEdoubler",
    "not-utf-8": "%ff%fe",
    "newline": "doubler%0d%0aX-Injected:%20yes",
    "space": "doubler%20",
    "case": "Doubler",
    "version-inside": "doubler@1",
    "percent": "%252e",
    "semicolon": "doubler;x=1",
}
VERSIONS: Final = [
    *(
        "latest",
        "latest%20",
        "1.0",
        "01",
        "-1",
        "+1",
        "1%20",
        "1" + "0" * 30,
        "2",
        "%31%00",
        "..%2F1",
    ),
    *("%D9%A1", "1@1", "0x1"),
]
PATHS: Final = ("", "/ready", "/config", "/stats", "/infer")


def ask(case: Case, target: str, *headers: str, credential: str | None = None) -> Answer:
    """credential: another one than that of a caller."""
    post = target.endswith(("/infer", "/load"))
    lines = (credential or case.product.authorization, *headers)
    body = BODY if post else b""
    return case.ask_one(request("POST" if post else "GET", target, *lines, body=body))


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES)
def test_tn_22_odd_model_names_are_no_models(case: Case, name: str) -> None:
    """A name is looked up and nothing else: it is no path, no header and no label of a metric."""
    before = case.product.series()

    for path in PATHS:
        answer = ask(case, f"/v2/models/{name}{path}")
        assert answer.status == 404
        assert_problem(answer, 404, answer.json()["code"])
        assert "x-injected" not in answer.headers
    ask(case, f"/v2/repository/models/{name}/load")

    added = case.product.series() - before
    assert all(series.startswith("serving_refusals_total") for series in added)


@pytest.mark.parametrize("version", VERSIONS)
def test_tn_23_version_is_its_exact_name(case: Case, version: str) -> None:
    """Nothing is a version but the name of one: no alias, no other spelling of a number.

    Who may name any version is told that there is none; others are not even told that.
    """
    operator = f"Authorization: Bearer {case.product.instance.token(Role.OPERATOR)}"
    for path in PATHS:
        target = f"/v2/models/doubler/versions/{version}{path}"

        assert_problem(ask(case, target, credential=operator), 404, "model_not_found")
        assert ask(case, target).status in (403, 404)


@pytest.mark.parametrize(
    ("value", "status", "code"),
    [
        ("0", 504, "deadline_exceeded"),
        ("-1", 400, "invalid_parameter"),
        ("NaN", 400, "invalid_parameter"),
        ("1.5", 400, "invalid_parameter"),
        ("soon", 400, "invalid_parameter"),
        ("", 400, "invalid_parameter"),
        ("1e3", 400, "invalid_parameter"),
    ],
)
def test_tn_25_deadline_that_is_none(case: Case, value: str, status: int, code: str) -> None:
    """No time is over at once, without any work; what is no number of milliseconds is refused."""
    answer = ask(case, "/v2/models/doubler/infer", f"serving-timeout-ms: {value}")

    assert_problem(answer, status, code)


@pytest.mark.parametrize("value", ["1000000000000", "9" * 4000])
def test_tn_25_deadline_that_is_too_far_is_clamped(case: Case, value: str) -> None:
    """However long a caller is ready to wait, it is served within the longest that we allow."""
    answer = ask(case, "/v2/models/doubler/infer", f"serving-timeout-ms: {value}")

    assert answer.status == 200
