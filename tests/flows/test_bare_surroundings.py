import signal
from pathlib import Path

import pytest

from tests.instances import Instance


@pytest.mark.parametrize(
    "changes",
    [
        {"HOME": None, "LANG": None, "LC_ALL": "no_SUCH.locale"},
        {"HOME": "/nonexistent", "TMPDIR": "/nonexistent", "PYTHONIOENCODING": "ascii"},
    ],
    ids=["nothing is set", "nothing is right"],
)
def test_ft_22_a_bare_environment_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, changes: dict[str, str | None]
) -> None:
    """Without a home, a locale or the named temporary folder it starts, answers and stops."""
    for variable, value in changes.items():
        if value is None:
            monkeypatch.delenv(variable, raising=False)
        else:
            monkeypatch.setenv(variable, value)

    with Instance(tmp_path) as instance:
        instance.expect("ready")
        answer = instance.infer()
        status = instance.stop(with_signal=signal.SIGTERM)

    assert (answer.status_code, status) == (200, 0)
