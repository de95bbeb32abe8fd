"""One tree of errors: unique codes, drawn where it is defined, each with a row at the edge."""

import re
from collections.abc import Iterator
from http import HTTPStatus

import pytest

from serving import errors
from serving.edge.problems import STATUS
from serving.errors import CallerError, OperatorError, ServiceError, ServingError


def tree(root: type[ServingError]) -> Iterator[type[ServingError]]:
    for child in root.__subclasses__():
        if child.__module__.startswith(f"{errors.__name__}."):
            yield child
            yield from tree(child)


CLASSES = list(tree(ServingError))
GROUPS = {CallerError, ServiceError, OperatorError}
"""Only there to say whose fault it is: never raised themselves, so without a code of their own."""
NAMED = [error for error in CLASSES if error not in GROUPS]


def test_codes_are_unique() -> None:
    """No two classes share a code, and every one has its own."""
    codes = [error.code for error in NAMED]

    assert len(codes) == len(set(codes))
    assert all("code" in vars(error) for error in NAMED)
    assert all(re.fullmatch("[a-z][a-z_]*", code) for code in codes)


@pytest.mark.parametrize("error", CLASSES, ids=lambda error: error.__name__)
def test_the_tree_is_drawn(error: type[ServingError]) -> None:
    """The module's docstring shows each class at its place, with its code and whether to retry."""
    drawing = (errors.__doc__ or "").splitlines()
    (line,) = (line for line in drawing if re.search(rf"[├└]── {error.__name__}\b", line))

    depth = len(error.__mro__) - len(ServingError.__mro__)
    assert re.split("[├└]", line)[0] == line[: 4 * depth]
    if error not in GROUPS:
        assert re.search(rf"\b{error.code}\b", line)
        assert ("(retry)" in line) == error.retry


@pytest.mark.parametrize("error", NAMED, ids=lambda error: error.__name__)
def test_every_error_that_leaves_has_a_status(error: type[ServingError]) -> None:
    """The edge's table has a row for each error that can reach a caller, of the right class."""
    if issubclass(error, OperatorError):
        assert error.code not in STATUS
        return

    status = STATUS[error.code]
    fault = 400 <= status < 500
    assert HTTPStatus(status)
    assert fault == issubclass(error, CallerError) or status == 505


def test_the_table_has_no_row_without_an_error() -> None:
    """A code that no class has any more leaves the table."""
    assert set(STATUS) <= {error.code for error in NAMED} | {ServingError.code}
