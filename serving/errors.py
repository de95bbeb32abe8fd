"""Every failure the product names, in one tree with stable codes.

    ServingError
    ├── CallerError              the request must change before it can succeed
    │   ├── RequestInvalid           invalid_request
    │   │   ├── JsonInvalid              invalid_json
    │   │   │   ├── NonFiniteLiteral         non_finite_literal (NaN or Infinity as JSON)
    │   │   │   └── DuplicateKey             duplicate_key (two members of one name)
    │   │   ├── JsonTooDeep              json_too_deep
    │   │   ├── ShapeInvalid             invalid_shape
    │   │   ├── ShapeOverflow            shape_overflow
    │   │   ├── DataShapeMismatch        data_shape_mismatch
    │   │   ├── DatatypeMismatch         dtype_mismatch
    │   │   ├── ValueOutOfRange          value_out_of_range
    │   │   ├── NonFiniteInput           non_finite_input
    │   │   ├── ParameterInvalid         invalid_parameter
    │   │   ├── FieldUnknown             unknown_or_read_only_field
    │   │   ├── AmbiguousCredentials     ambiguous_credentials
    │   │   ├── EncodingInvalid          bad_encoding (a compressed body that is damaged)
    │   │   └── MessageInvalid           invalid_message (HTTP framing or header)
    │   │       └── AmbiguousLength          ambiguous_length
    │   ├── Unauthenticated          unauthenticated
    │   ├── Forbidden                forbidden
    │   ├── NotFound                 not_found
    │   │   └── ModelNotFound            model_not_found
    │   ├── MethodNotAllowed         method_not_allowed
    │   ├── RequestTimeout           request_timeout (header or body came too slowly)
    │   ├── BodyTooLarge             body_too_large
    │   ├── TargetTooLong            uri_too_long
    │   ├── HeadTooLarge             headers_too_large
    │   ├── MediaTypeUnsupported     unsupported_media_type
    │   │   └── EncodingUnsupported      unsupported_encoding
    │   ├── ProtocolUnsupported      unsupported_protocol_version
    │   └── CallerLimitReached       caller_limit (retry)
    │       └── QuotaExceeded            quota_exceeded (retry)
    ├── ServiceError             the request was fine
    │   ├── Overloaded               overloaded (retry)
    │   │   ├── QueueFull                queue_full (retry)
    │   │   └── ConnectionsFull          too_many_connections (retry)
    │   ├── NotReady                 not_ready (retry)
    │   │   ├── NoReplica                no_replica (retry)
    │   │   └── Draining                 draining (retry)
    │   ├── AuthUnavailable          auth_unavailable (retry)
    │   ├── LogUnavailable           log_unavailable (retry)
    │   │   └── LogStorageFull           log_storage_full (retry)
    │   ├── ReplicaLost              replica_lost (retry)
    │   ├── DeadlineExceeded         deadline_exceeded (retry)
    │   ├── ModelFailed              model_error
    │   ├── OutputInvalid            model_output_invalid
    │   ├── FeatureUnsupported       unsupported
    │   ├── FrameInvalid             invalid_frame (a peer sent what is no frame)
    │   └── InternalError            internal
    └── OperatorError            a start or an administrative act was refused
        ├── SettingInvalid           invalid_setting
        ├── AddressInUse             address_in_use
        ├── DataDirectoryInUse       data_directory_in_use
        ├── SpecificationInvalid     invalid_specification
        ├── ArtifactInvalid          invalid_artifact
        │   └── ArtifactMissing          artifact_missing (a deployment may be optional)
        ├── ProviderUnavailable      provider_unavailable
        ├── OrderRefused             order_refused (the control port said no to a command)
        ├── LogDamaged               log_damaged
        └── StartFailed              start_failed

A message tells its reader what to change: the thing, the value, the permitted range. It holds no
path, host or secret unless the class is an `OperatorError`, which never leaves the machine. The
one table from code to HTTP status is `serving.edge.problems`.
"""

from typing import ClassVar


class ServingError(Exception):
    """Root of the tree. `code` is stable; `retry` says whether the same request may succeed later."""

    code: ClassVar[str] = "error"
    retry: ClassVar[bool] = False

    def __init__(self, message: str) -> None:
        super().__init__(message)
        self.message = message


class CallerError(ServingError):
    """The request must change before it can succeed."""


class ServiceError(ServingError):
    """The request was fine; the service could not answer it."""


class OperatorError(ServingError):
    """A start or an administrative act was refused; shown to the operator only."""


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


class NotFound(CallerError):
    code = "not_found"


class ModelNotFound(NotFound):
    code = "model_not_found"


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


class Overloaded(ServiceError):
    code = "overloaded"
    retry = True


class QueueFull(Overloaded):
    code = "queue_full"


class ConnectionsFull(Overloaded):
    code = "too_many_connections"


class NotReady(ServiceError):
    code = "not_ready"
    retry = True


class NoReplica(NotReady):
    code = "no_replica"


class Draining(NotReady):
    code = "draining"


class AuthUnavailable(ServiceError):
    code = "auth_unavailable"
    retry = True


class LogUnavailable(ServiceError):
    code = "log_unavailable"
    retry = True


class LogStorageFull(LogUnavailable):
    code = "log_storage_full"


class ReplicaLost(ServiceError):
    code = "replica_lost"
    retry = True


class DeadlineExceeded(ServiceError):
    code = "deadline_exceeded"
    retry = True


class ModelFailed(ServiceError):
    code = "model_error"


class OutputInvalid(ServiceError):
    code = "model_output_invalid"


class FeatureUnsupported(ServiceError):
    code = "unsupported"


class FrameInvalid(ServiceError):
    code = "invalid_frame"


class InternalError(ServiceError):
    code = "internal"


class SettingInvalid(OperatorError):
    code = "invalid_setting"


class AddressInUse(OperatorError):
    code = "address_in_use"


class DataDirectoryInUse(OperatorError):
    code = "data_directory_in_use"


class SpecificationInvalid(OperatorError):
    code = "invalid_specification"


class ArtifactInvalid(OperatorError):
    code = "invalid_artifact"


class ArtifactMissing(ArtifactInvalid):
    code = "artifact_missing"


class ProviderUnavailable(OperatorError):
    code = "provider_unavailable"


class OrderRefused(OperatorError):
    code = "order_refused"


class LogDamaged(OperatorError):
    code = "log_damaged"


class StartFailed(OperatorError):
    code = "start_failed"
