"""Failures of the service: the request was fine."""

from serving.errors.groups import ServiceError


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


class OutOfMemory(ServiceError):
    code = "out_of_memory"
    retry = True


class OutputInvalid(ServiceError):
    code = "model_output_invalid"


class FeatureUnsupported(ServiceError):
    code = "unsupported"


class FrameInvalid(ServiceError):
    code = "invalid_frame"


class InternalError(ServiceError):
    code = "internal"
