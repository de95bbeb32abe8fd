"""Starts and administrative acts that were refused; shown to the operator only."""

from serving.errors.groups import OperatorError


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
