"""How much of the onnx package's suite runs, and the table at the end."""

import pytest

from tests.conformance.verdicts import Verdict, table

VERDICTS = pytest.StashKey[list[Verdict]]()


@pytest.fixture
def verdicts(pytestconfig: pytest.Config) -> list[Verdict]:
    """Where verdicts are kept for the table."""
    return pytestconfig.stash.setdefault(VERDICTS, [])


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """Prints the table of what was run, skipped and passed."""
    found = config.stash.get(VERDICTS, [])
    if found:
        terminalreporter.section("ONNX models through the product")
        terminalreporter.write_line(table(found))
