import signal
from pathlib import Path

import pytest

from tests.instances import Instance


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("HOME", None),
        ("HOME", "/nonexistent"),
        ("LC_ALL", "no_SUCH.locale"),
        ("LANG", None),
        ("TMPDIR", "/nonexistent"),
        ("PYTHONIOENCODING", "ascii"),
    ],
)
def test_ft_22_a_bare_environment_is_enough(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str, value: str | None
) -> None:
    """Without a home, a locale or the named temporary folder it starts, answers and stops."""
    if value is None:
        monkeypatch.delenv(variable, raising=False)
    else:
        monkeypatch.setenv(variable, value)

    with Instance(tmp_path) as instance:
        instance.expect("ready")
        answer = instance.infer()
        status = instance.stop(with_signal=signal.SIGTERM)

    assert (answer.status_code, status) == (200, 0)
