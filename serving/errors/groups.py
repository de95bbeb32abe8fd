"""The root of the tree of errors, and whose fault each of its three branches is."""

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
