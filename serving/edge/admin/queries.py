"""Numbers in the query of a request."""

from typing import Final

from serving.edge.routes import Request
from serving.errors import ParameterInvalid

MAX_WAIT_S: Final = 30.0
"""Nobody holds a long poll for longer."""


def number(request: Request, name: str, *, default: float) -> float:
    """A number from 0, `default` when the query has none. Raises ParameterInvalid."""
    text = request.query.get(name)
    if text is None:
        return default
    try:
        value = float(text)
    except ValueError as error:
        raise ParameterInvalid(f"{name} must be a number") from error
    if not 0 <= value < float(2**63):
        raise ParameterInvalid(f"{name} must be a number from 0")
    return value
