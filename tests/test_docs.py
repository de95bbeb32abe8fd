"""What users can set and see is written in README; these tests say what is missing there."""

from tests.readme import README, with_tables


def test_settings_metrics_and_events_in_readme_are_those_of_the_code() -> None:
    """Each with its default, labels or meaning; `python -m tests.readme` writes them anew."""
    text = README.read_text()

    assert with_tables(text) == text
