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
    │   ├── OutOfMemory              out_of_memory (retry)
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

Each branch has a module of its own; all of them are named here, and used from here.
"""

from serving.errors.callers import (
    AlreadyThere,
    AmbiguousCredentials,
    AmbiguousLength,
    ArtifactUnsupported,
    BodyTooLarge,
    CallerLimitReached,
    DataShapeMismatch,
    DatatypeMismatch,
    DigestChanged,
    DuplicateKey,
    EncodingInvalid,
    EncodingUnsupported,
    FieldUnknown,
    Forbidden,
    HeadTooLarge,
    JsonInvalid,
    JsonTooDeep,
    KeyReused,
    LegalHold,
    MediaTypeUnsupported,
    MessageInvalid,
    MethodNotAllowed,
    ModelNotFound,
    ModelRetired,
    NonFiniteInput,
    NonFiniteLiteral,
    NotFound,
    OutcomeInvalid,
    ParameterInvalid,
    PathUnsafe,
    ProtocolUnsupported,
    QuotaExceeded,
    RequestClosed,
    RequestInvalid,
    RequestTimeout,
    RevisionStale,
    SeparationBroken,
    ShapeInvalid,
    ShapeOverflow,
    StateConflict,
    TargetTooLong,
    TransitionRefused,
    Unauthenticated,
    ValueOutOfRange,
)
from serving.errors.groups import (
    CallerError,
    OperatorError,
    ServiceError,
    ServingError,
)
from serving.errors.operators import (
    AddressInUse,
    ArtifactInvalid,
    ArtifactMissing,
    AuditDamaged,
    CiphertextInvalid,
    DataDirectoryInUse,
    LedgerUnavailable,
    LogDamaged,
    OrderRefused,
    ProofInvalid,
    ProviderUnavailable,
    QueryInvalid,
    ReleaseRefused,
    SchemaUnsupported,
    SettingInvalid,
    SignatureInvalid,
    SpecificationInvalid,
    StartFailed,
)
from serving.errors.services import (
    AuthUnavailable,
    ConnectionsFull,
    DeadlineExceeded,
    Draining,
    FeatureUnsupported,
    FrameInvalid,
    InternalError,
    KeyStoreUnavailable,
    LogStorageFull,
    LogUnavailable,
    ModelFailed,
    NoReplica,
    NotReady,
    OutOfMemory,
    OutputInvalid,
    Overloaded,
    QueueFull,
    RegistryUnavailable,
    ReplicaLost,
)

__all__ = [
    "AddressInUse",
    "AlreadyThere",
    "AmbiguousCredentials",
    "AmbiguousLength",
    "ArtifactInvalid",
    "ArtifactMissing",
    "ArtifactUnsupported",
    "AuditDamaged",
    "AuthUnavailable",
    "BodyTooLarge",
    "CallerError",
    "CallerLimitReached",
    "CiphertextInvalid",
    "ConnectionsFull",
    "DataDirectoryInUse",
    "DataShapeMismatch",
    "DatatypeMismatch",
    "DeadlineExceeded",
    "DigestChanged",
    "Draining",
    "DuplicateKey",
    "EncodingInvalid",
    "EncodingUnsupported",
    "FeatureUnsupported",
    "FieldUnknown",
    "Forbidden",
    "FrameInvalid",
    "HeadTooLarge",
    "InternalError",
    "JsonInvalid",
    "JsonTooDeep",
    "KeyReused",
    "KeyStoreUnavailable",
    "LedgerUnavailable",
    "LegalHold",
    "LogDamaged",
    "LogStorageFull",
    "LogUnavailable",
    "MediaTypeUnsupported",
    "MessageInvalid",
    "MethodNotAllowed",
    "ModelFailed",
    "ModelNotFound",
    "ModelRetired",
    "NoReplica",
    "NonFiniteInput",
    "NonFiniteLiteral",
    "NotFound",
    "NotReady",
    "OperatorError",
    "OrderRefused",
    "OutOfMemory",
    "OutcomeInvalid",
    "OutputInvalid",
    "Overloaded",
    "ParameterInvalid",
    "PathUnsafe",
    "ProofInvalid",
    "ProtocolUnsupported",
    "ProviderUnavailable",
    "QueryInvalid",
    "QueueFull",
    "QuotaExceeded",
    "RegistryUnavailable",
    "ReleaseRefused",
    "ReplicaLost",
    "RequestClosed",
    "RequestInvalid",
    "RequestTimeout",
    "RevisionStale",
    "SchemaUnsupported",
    "SeparationBroken",
    "ServiceError",
    "ServingError",
    "SettingInvalid",
    "ShapeInvalid",
    "ShapeOverflow",
    "SignatureInvalid",
    "SpecificationInvalid",
    "StartFailed",
    "StateConflict",
    "TargetTooLong",
    "TransitionRefused",
    "Unauthenticated",
    "ValueOutOfRange",
]
