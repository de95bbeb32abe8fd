"""Data subjects on the wire: the header `Serving-Subject`, and the request parameter `subject`.

Whoever the rows are about, in the caller's own words; it is never written down as it is
(`serving.predictionlog.privacy.subjects`).
"""

from collections.abc import Iterable, Mapping
from typing import Final

from serving.errors import ParameterInvalid

HEADER: Final = "serving-subject"
PARAMETER: Final = "subject"
MAX_SUBJECT_BYTES: Final = 256


def subject_of_header(value: bytes | str | None) -> bytes:
    """The subject, empty for none. Raises ParameterInvalid."""
    if value is None:
        return b""
    return _checked(value.encode() if isinstance(value, str) else value, HEADER)


def subject_of_metadata(metadata: Iterable[tuple[str, str | bytes]]) -> bytes:
    """The same of a gRPC call; two are refused rather than chosen from."""
    values = [value for name, value in metadata if name == HEADER]
    if len(values) > 1:
        raise ParameterInvalid(f"{HEADER} may be sent only once")
    return subject_of_header(values[0]) if values else b""


def subject_of_parameters(parameters: Mapping[str, object] | None) -> bytes:
    """The same of a request's own parameters."""
    value = None if parameters is None else parameters.get(PARAMETER)
    if value is None:
        return b""
    if not isinstance(value, str):
        raise ParameterInvalid(f"parameter {PARAMETER} must be a string")
    return _checked(value.encode(), f"parameter {PARAMETER}")


def same_subject(header: bytes, parameter: bytes) -> bytes:
    """The one subject of a request. Raises ParameterInvalid when it names two."""
    if header and parameter and header != parameter:
        raise ParameterInvalid(f"{HEADER} and parameter {PARAMETER} name different data subjects")
    return header or parameter


def _checked(value: bytes, name: str) -> bytes:
    try:
        text = value.decode()
    except UnicodeDecodeError as error:
        raise ParameterInvalid(f"{name} must be UTF-8") from error
    if not 0 < len(value) <= MAX_SUBJECT_BYTES or not text.isprintable():
        raise ParameterInvalid(f"{name} must have 1 to {MAX_SUBJECT_BYTES} printable bytes")
    return value
