import pytest
from google.rpc import error_details_pb2, status_pb2  # type: ignore[import-untyped]  # no types

from serving.edge.grpc.problems import CODES, DOMAIN, STATUS_KEY, failure
from serving.edge.problems import STATUS
from serving.errors import (
    BodyTooLarge,
    CallerLimitReached,
    DeadlineExceeded,
    FeatureUnsupported,
    Forbidden,
    ModelFailed,
    ModelNotFound,
    NoReplica,
    ServingError,
    ShapeInvalid,
    Unauthenticated,
)

DOCUMENTED: dict[type[ServingError], str] = {
    ShapeInvalid: "INVALID_ARGUMENT",
    Unauthenticated: "UNAUTHENTICATED",
    Forbidden: "PERMISSION_DENIED",
    ModelNotFound: "NOT_FOUND",
    BodyTooLarge: "RESOURCE_EXHAUSTED",
    CallerLimitReached: "RESOURCE_EXHAUSTED",
    ModelFailed: "INTERNAL",
    FeatureUnsupported: "UNIMPLEMENTED",
    NoReplica: "UNAVAILABLE",
    DeadlineExceeded: "DEADLINE_EXCEEDED",
}


def details_of(error: ServingError, request_id: str | None = None) -> dict[str, object]:
    """The details in the trailers, by the name of their message."""
    ((key, value),) = failure(error, request_id=request_id).trailers
    assert key == STATUS_KEY
    details = {}
    for detail in status_pb2.Status.FromString(value).details:
        name = detail.TypeName().rpartition(".")[2]
        details[name] = getattr(error_details_pb2, name)()
        detail.Unpack(details[name])
    return details


def test_every_error_has_a_grpc_code() -> None:
    """A new row of the one table is enough: each HTTP status in it has its gRPC code."""
    assert {code for code, status in STATUS.items() if status not in CODES} == set()


@pytest.mark.parametrize("kind", DOCUMENTED, ids=lambda kind: str(kind.code))
def test_errors_have_the_documented_grpc_codes(kind: type[ServingError]) -> None:
    """Each case of the conventions has the gRPC code that stands there."""
    ended = failure(kind("why"))

    assert (ended.code.name, ended.message) == (DOCUMENTED[kind], "why")


def test_details_name_our_code_and_the_request() -> None:
    """`ErrorInfo` carries the stable code, `RequestInfo` the prediction id."""
    details = details_of(ShapeInvalid("why"), "514d99-8")

    assert details == {
        "ErrorInfo": error_details_pb2.ErrorInfo(reason="invalid_shape", domain=DOMAIN),
        "RequestInfo": error_details_pb2.RequestInfo(request_id="514d99-8"),
    }


def test_a_refusal_without_a_prediction_gets_a_fresh_id() -> None:
    """Two failures are never named alike."""
    first, second = failure(ShapeInvalid("why")), failure(ShapeInvalid("why"))

    assert len({first.request_id, second.request_id, ""}) == 3


@pytest.mark.parametrize("kind", [CallerLimitReached, NoReplica])
def test_who_may_come_back_is_told_when(kind: type[ServingError]) -> None:
    """What HTTP answers with `Retry-After` has a `RetryInfo`, of one to three seconds."""
    retry = details_of(kind("later"))["RetryInfo"]

    assert isinstance(retry, error_details_pb2.RetryInfo)
    assert 1.0 <= retry.retry_delay.ToMilliseconds() / 1000 <= 3.0
