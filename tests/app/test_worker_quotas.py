"""The quotas of a worker, over restarts with other settings."""

from pathlib import Path

import pytest

from loadtests.ports import free_port
from serving.app.directory import DataDirectory
from serving.app.worker_quotas import WorkerQuotas
from serving.core.clock import SystemClock
from serving.core.principals import Principal, Role
from serving.errors import QuotaExceeded
from serving.settings import Settings

ANN = Principal("ann", frozenset({Role.CALLER}))


@pytest.mark.parametrize("limit", [{"concurrent": 10}, {"requests_per_day": 10}])
async def test_a_node_that_shares_no_longer_gives_out_all(
    tmp_path: Path, limit: dict[str, int]
) -> None:
    """A worker could not reach Redis and let nobody in; started without Redis it lets all in."""
    directory = DataDirectory.at(tmp_path / "data")
    with directory.locked():
        directory.prepare()
    away = {"redis_url": f"redis://127.0.0.1:{free_port()}", "when_down": "refuse"}
    for sharing, admitted in ((away, 0), ({}, 10)):
        settings = Settings.model_validate({"quotas": [limit], "quota_sharing": sharing})
        opened = WorkerQuotas.open(settings, directory, index=0, clock=SystemClock())
        if opened.sharing is not None:
            await opened.sharing.meet()
        assert sum(admits(opened) for _ in range(20)) == admitted


def admits(opened: WorkerQuotas) -> bool:
    assert opened.quotas is not None
    try:
        opened.quotas.admit(ANN)
    except QuotaExceeded:
        return False
    return True
