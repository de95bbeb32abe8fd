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
    │   │   ├── OutcomeInvalid           invalid_outcome
    │   │   ├── ArtifactUnsupported      unsupported_artifact (no ONNX model: a pickle, an archive)
    │   │   ├── PathUnsafe               unsafe_path (of a file of an artifact)
    │   │   ├── AmbiguousCredentials     ambiguous_credentials
    │   │   ├── EncodingInvalid          bad_encoding (a compressed body that is damaged)
    │   │   └── MessageInvalid           invalid_message (HTTP framing or header)
    │   │       └── AmbiguousLength          ambiguous_length
    │   ├── Unauthenticated          unauthenticated
    │   ├── Forbidden                forbidden
    │   │   └── SeparationBroken         separation_of_duties (one's own work, or agreed already)
    │   ├── NotFound                 not_found
    │   │   ├── ModelNotFound            model_not_found
    │   │   └── ModelRetired             model_retired (it was there once; who to ask instead)
    │   ├── StateConflict            conflict (what is there now does not permit it)
    │   │   ├── AlreadyThere             already_exists
    │   │   ├── RevisionStale            revision_conflict (somebody changed it since it was read)
    │   │   ├── KeyReused                idempotency_key_reused (with another order)
    │   │   ├── DigestChanged            digest_changed (a version's artifact never changes)
    │   │   ├── LegalHold                legal_hold (what would be erased has to stay)
    │   │   ├── RequestClosed            request_closed (decided, withdrawn or expired already)
    │   │   └── TransitionRefused        transition_refused
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
    │   ├── KeyStoreUnavailable      key_store_unavailable (retry)
    │   ├── RegistryUnavailable      registry_unavailable (retry)
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
        ├── SchemaUnsupported        schema_unsupported (the database is of a newer version)
        ├── SpecificationInvalid     invalid_specification
        ├── ArtifactInvalid          invalid_artifact
        │   ├── ArtifactMissing          artifact_missing (a deployment may be optional)
        │   └── ReleaseRefused           release_refused (not signed, approved or bound as it must be)
        ├── SignatureInvalid         invalid_signature
        ├── ProofInvalid             invalid_proof (of a Merkle tree)
        ├── CiphertextInvalid        invalid_ciphertext (damaged, or not opened by this key)
        ├── ProviderUnavailable      provider_unavailable
        ├── OrderRefused             order_refused (the control port said no to a command)
        ├── LogDamaged               log_damaged
        ├── AuditDamaged             audit_damaged (the trail is not what was signed)
        ├── LedgerUnavailable        ledger_unavailable (where tables, or shipped segments, lie)
        ├── QueryInvalid             invalid_query (the SQL of `serving log sql`)
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


class KeyStoreUnavailable(ServiceError):
    code = "key_store_unavailable"
    retry = True


class RegistryUnavailable(ServiceError):
    code = "registry_unavailable"
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


class SchemaUnsupported(OperatorError):
    code = "schema_unsupported"


class SpecificationInvalid(OperatorError):
    code = "invalid_specification"


class ArtifactInvalid(OperatorError):
    code = "invalid_artifact"


class ArtifactMissing(ArtifactInvalid):
    code = "artifact_missing"


class ReleaseRefused(ArtifactInvalid):
    code = "release_refused"


class SignatureInvalid(OperatorError):
    code = "invalid_signature"


class ProofInvalid(OperatorError):
    code = "invalid_proof"


class CiphertextInvalid(OperatorError):
    code = "invalid_ciphertext"


class ProviderUnavailable(OperatorError):
    code = "provider_unavailable"


class OrderRefused(OperatorError):
    code = "order_refused"


class LogDamaged(OperatorError):
    code = "log_damaged"


class LedgerUnavailable(OperatorError):
    code = "ledger_unavailable"


class QueryInvalid(OperatorError):
    code = "invalid_query"


class AuditDamaged(OperatorError):
    code = "audit_damaged"


class StartFailed(OperatorError):
    code = "start_failed"
