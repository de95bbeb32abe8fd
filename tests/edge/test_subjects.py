import pytest

from serving.edge.subjects import (
    same_subject,
    subject_of_header,
    subject_of_metadata,
    subject_of_parameters,
)
from serving.errors import ParameterInvalid


def test_a_subject_is_named_in_one_way_or_the_other() -> None:
    """Header, gRPC metadata and request parameter mean the same; none means nobody."""
    assert subject_of_header(b"ada") == b"ada"
    assert subject_of_metadata([("serving-subject", "ada"), ("other", "x")]) == b"ada"
    assert subject_of_parameters({"subject": "ada"}) == b"ada"
    assert (subject_of_header(None), subject_of_metadata([]), subject_of_parameters(None)) == (
        b"", b"", b"",
    )  # fmt: skip
    assert (same_subject(b"ada", b""), same_subject(b"", b"ada")) == (b"ada", b"ada")


@pytest.mark.parametrize("value", [b"", b"x" * 257, b"\xff", b"a\nb"])
def test_what_is_no_subject_is_refused(value: bytes) -> None:
    """Never taken for nobody: the payload would be recorded in the clear."""
    with pytest.raises(ParameterInvalid):
        subject_of_header(value)


def test_two_subjects_are_refused() -> None:
    """Nobody chooses between them."""
    with pytest.raises(ParameterInvalid):
        subject_of_metadata([("serving-subject", "a"), ("serving-subject", "a")])
    with pytest.raises(ParameterInvalid):
        same_subject(b"a", b"b")
    with pytest.raises(ParameterInvalid):
        subject_of_parameters({"subject": 7})
