"""Failures of requests: what a caller has to change before it can succeed."""

from serving.errors.groups import CallerError


class RequestInvalid(CallerError):
    code = "invalid_request"


class JsonInvalid(RequestInvalid):
    code = "invalid_json"


class NonFiniteLiteral(JsonInvalid):
    code = "non_finite_literal"


class DuplicateKey(JsonInvalid):
    code = "duplicate_key"


class JsonTooDeep(RequestInvalid):
    code = "json_too_deep"


class ShapeInvalid(RequestInvalid):
    code = "invalid_shape"


class ShapeOverflow(RequestInvalid):
    code = "shape_overflow"


class DataShapeMismatch(RequestInvalid):
    code = "data_shape_mismatch"


class DatatypeMismatch(RequestInvalid):
    code = "dtype_mismatch"


class ValueOutOfRange(RequestInvalid):
    code = "value_out_of_range"


class NonFiniteInput(RequestInvalid):
    code = "non_finite_input"


class ParameterInvalid(RequestInvalid):
    code = "invalid_parameter"


class FieldUnknown(RequestInvalid):
    code = "unknown_or_read_only_field"


class OutcomeInvalid(RequestInvalid):
    code = "invalid_outcome"


class ArtifactUnsupported(RequestInvalid):
    code = "unsupported_artifact"


class PathUnsafe(RequestInvalid):
    code = "unsafe_path"


class AmbiguousCredentials(RequestInvalid):
    code = "ambiguous_credentials"


class EncodingInvalid(RequestInvalid):
    code = "bad_encoding"


class MessageInvalid(RequestInvalid):
    code = "invalid_message"


class AmbiguousLength(MessageInvalid):
    code = "ambiguous_length"


class Unauthenticated(CallerError):
    code = "unauthenticated"


class Forbidden(CallerError):
    code = "forbidden"


class SeparationBroken(Forbidden):
    code = "separation_of_duties"


class NotFound(CallerError):
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


class ModelRetired(NotFound):
    """successor: who to ask instead, as `model@version`; empty for nobody."""

    code = "model_retired"

    def __init__(self, message: str, *, successor: str = "") -> None:
        super().__init__(message)
        self.successor = successor


class StateConflict(CallerError):
    code = "conflict"


class AlreadyThere(StateConflict):
    code = "already_exists"


class RevisionStale(StateConflict):
    code = "revision_conflict"


class KeyReused(StateConflict):
    code = "idempotency_key_reused"


class DigestChanged(StateConflict):
    code = "digest_changed"


class LegalHold(StateConflict):
    code = "legal_hold"


class RequestClosed(StateConflict):
    code = "request_closed"


class TransitionRefused(StateConflict):
    code = "transition_refused"


class MethodNotAllowed(CallerError):
    code = "method_not_allowed"

    def __init__(self, message: str, *, allowed: str) -> None:
        super().__init__(message)
        self.allowed = allowed


class RequestTimeout(CallerError):
    code = "request_timeout"


class BodyTooLarge(CallerError):
    code = "body_too_large"


class TargetTooLong(CallerError):
    code = "uri_too_long"


class HeadTooLarge(CallerError):
    code = "headers_too_large"


class MediaTypeUnsupported(CallerError):
    code = "unsupported_media_type"


class EncodingUnsupported(MediaTypeUnsupported):
    code = "unsupported_encoding"


class ProtocolUnsupported(CallerError):
    code = "unsupported_protocol_version"


class CallerLimitReached(CallerError):
    code = "caller_limit"
    retry = True


class QuotaExceeded(CallerLimitReached):
    """retry_after_s: when the same request has a chance again."""

    code = "quota_exceeded"

    def __init__(self, message: str, *, retry_after_s: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s
