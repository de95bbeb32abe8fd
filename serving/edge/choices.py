"""The version that a caller chooses: in the URL or the message, or with `Serving-Version`.

Who may choose is decided by the request path (`gateway.pipeline`): operators, and the testers that a
model's traffic names.
"""

from collections.abc import Iterable
from typing import Final

from serving.errors import ParameterInvalid

VERSION: Final = "serving-version"
MAX_VERSION_BYTES: Final = 63


def one_version(pinned: str | None, said: bytes | str | None) -> str | None:
    """The version of a request. pinned: by its URL or message. Raises ParameterInvalid."""
    if said is None:
        return pinned
    value = said.decode("latin-1") if isinstance(said, bytes) else said
    if not 0 < len(value) <= MAX_VERSION_BYTES or not value.isprintable():
        raise ParameterInvalid(f"{VERSION} must be the name of a version")
    if pinned is not None and pinned != value:
        raise ParameterInvalid(f"{VERSION} and the request itself name different versions")
    return value


def only_said(metadata: Iterable[tuple[str, str | bytes]], name: str) -> str | bytes | None:
    """One value of a gRPC call's metadata; two are refused rather than chosen from."""
    values = [value for each, value in metadata if each == name]
    if len(values) > 1:
        raise ParameterInvalid(f"{name} may be sent only once")
    return values[0] if values else None
