from http import HTTPStatus

import pytest

from serving import errors
from serving.edge.problems import PHRASES, RETRYABLE_STATUSES, STATUS, problem, response
from serving.errors import MethodNotAllowed, OperatorError, ServingError
from tests.edge.wire import Answer, assert_problem, parse_answers

LEAVING = [
    error
    for error in vars(errors).values()
    if isinstance(error, type)
    and issubclass(error, ServingError)
    and not issubclass(error, (OperatorError, MethodNotAllowed))
]


def parse(payload: bytes) -> Answer:
    (answer,) = parse_answers(payload)
    return answer


@pytest.mark.parametrize("error", LEAVING, ids=lambda error: error.__name__)
def test_every_error_has_the_one_shape(error: type[ServingError]) -> None:
    """Whatever fails, the answer has `error`, `code` and `request_id`, and fits its status."""
    answer = parse(problem(error("what to change")))

    assert_problem(answer, STATUS[error.code], error.code)
    assert answer.json()["error"] == "what to change"


@pytest.mark.parametrize("error", LEAVING, ids=lambda error: error.__name__)
def test_advice_to_retry_fits_the_error(error: type[ServingError]) -> None:
    """`Retry-After` goes with errors that a retry may mend, and only with them."""
    if STATUS[error.code] in RETRYABLE_STATUSES:
        assert error.retry


def test_wrong_method_is_told_the_right_ones() -> None:
    """405 names what is allowed."""
    answer = parse(problem(MethodNotAllowed("use GET here", allowed="GET")))

    assert_problem(answer, 405, "method_not_allowed")
    assert answer.headers["allow"] == "GET"


def test_wrong_encoding_is_told_the_right_ones() -> None:
    """415 for a content coding names those that are understood; for a media type it names none."""
    encoding = parse(problem(errors.EncodingUnsupported("send it as it is")))
    media = parse(problem(errors.MediaTypeUnsupported("send JSON")))

    assert_problem(encoding, 415, "unsupported_encoding")
    assert encoding.headers["accept-encoding"] == "gzip, deflate, zstd"
    assert "accept-encoding" not in media.headers


def test_known_id_is_the_request_id() -> None:
    """A request that has a prediction id is named by it; others get ids of their own."""
    error = ServingError("")

    ids = [parse(problem(error, request_id=known)).json()["request_id"] for known in ("a-1", None)]
    again = parse(problem(error)).json()["request_id"]
    assert ids[0] == "a-1"
    assert len({*ids, again}) == 3


def test_advice_is_jittered() -> None:
    """Callers refused together are not told to come back together."""
    advice = {parse(problem(errors.QueueFull("full"))).headers["retry-after"] for _ in range(50)}

    assert advice == {"1", "2", "3"}


def test_text_of_an_error_is_data() -> None:
    """Whatever an error says, it stays inside the JSON string."""
    text = 'a "quoted"\r\nX-Injected: yes\r\n\r\n\u2028é'
    answer = parse(problem(errors.RequestInvalid(text)))

    assert text == answer.json()["error"]
    assert "x-injected" not in answer.headers


def test_every_status_has_its_phrase() -> None:
    """The table of phrases covers the table of statuses, in the words of the standard."""
    assert set(STATUS.values()) <= set(PHRASES)
    for status, phrase in PHRASES.items():
        assert phrase in (HTTPStatus(status).phrase, "Content Too Large", "URI Too Long")


def test_no_content_says_nothing_of_content() -> None:
    """A 204 has neither a body nor headers about one."""
    assert response(204, b"") == b"HTTP/1.1 204 No Content\r\n\r\n"
