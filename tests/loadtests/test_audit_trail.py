"""The measure of verification works, at a size that CI can afford."""

from pathlib import Path

from loadtests.audit_trail import measure


def test_verification_of_a_trail_is_measured(tmp_path: Path) -> None:
    """A small one stays far below the limit, and is found intact both ways."""
    assert measure(tmp_path, 3000)
