"""The ledger process of a running instance: it moves records, may be killed, and hinders nobody."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.ledger.places import Folder
from serving.ledger.search import LedgerSearch
from serving.predictionlog.reading.query import Query
from tests.instances import ROW, Instance
from tests.places import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
PATIENCE_S = 90.0
REQUESTS, ROWS = 12, 256


def ledger_pid(instance: Instance) -> int:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "serving.app.ledger" in command and str(instance.data_dir) in command:
            return int(file.parent.name)
    return 0


def kill(instance: Instance) -> None:
    pid = ledger_pid(instance)
    assert pid, "there is no ledger process"
    os.kill(pid, signal.SIGKILL)


def metric(instance: Instance, name: str) -> float:
    return sum(
        sample.value
        for family in text_string_to_metric_families(instance.scrape())
        for sample in family.samples
        if sample.name == name
    )


def send(instance: Instance) -> None:
    """Requests that fill some segments, all answered."""
    tensor = {"name": "input", "shape": [ROWS, len(ROW)], "datatype": "FP32", "data": ROW * ROWS}
    headers = {"Authorization": f"Bearer {instance.token()}"}
    with httpx.Client(base_url=instance.url, headers=headers, timeout=PATIENCE_S) as client:
        for _ in range(REQUESTS):
            answer = client.post("/v2/models/census-employment/infer", json={"inputs": [tensor]})
            assert answer.status_code == 200


def eventually(instance: Instance, holds: Callable[[], object]) -> None:
    """Returns once what the ledger does shows."""

    def look() -> object:
        instance.hasten()
        return holds()

    wait_until(look, within_s=PATIENCE_S)


def test_records_move_while_the_product_runs(tmp_path: Path) -> None:
    """Sealed segments become tables, status and metrics say so, a kill costs nothing."""
    with Instance(
        tmp_path, log={"segment_bytes": 65_536}, ledger={"compact_every_s": 0.2}
    ) as instance:
        instance.expect("ready")
        wait_until(lambda: ledger_pid(instance))
        priority = Path(f"/proc/{ledger_pid(instance)}/stat").read_text().split()[18]
        send(instance)
        kill(instance)
        send(instance)
        eventually(instance, lambda: metric(instance, "serving_ledger_files") > 0)
        status = json.loads(
            subprocess.run(  # noqa: S603 - our own command
                [sys.executable, "-m", "serving", "status", "--json",
                 "--data-dir", str(instance.data_dir)],
                capture_output=True, check=True,
            ).stdout
        )  # fmt: skip
        cold = Folder(instance.data_dir / "ledger" / "cold")
        search = LedgerSearch(instance.data_dir / "log", cold, Query())
        records = list(search.records())
        stopped = instance.stop()

    jobs = {each["name"]: each for each in status["ledger"]["jobs"]}
    assert {"compact", "labels", "retain"} <= jobs.keys()
    assert (jobs["compact"]["failures"], status["ledger"]["files"] > 0) == (0, True)
    assert len({record.prediction_id for record in records}) == len(records) == 2 * REQUESTS
    assert (priority, stopped) == ("19", 0)
