"""The monitor process of a running instance: compares what is mirrored, survives kills, signs nothing
that the log does not hold."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest

from tests.instances import ROW, Instance
from tests.places import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(300)]
PATIENCE_S = 90.0
SHADOWED = {"model": "census-employment", "stable": "1", "shadows": ["2"]}
REQUESTS = 40


def pid_of(instance: Instance) -> int:
    for file in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = file.read_bytes().decode(errors="replace")
        except OSError:
            continue
        if "serving.app.monitor" in command and str(instance.data_dir) in command:
            return int(file.parent.name)
    raise AssertionError("there is no monitor process")


def send(instance: Instance, count: int) -> None:
    """Different people, one a request, all answered."""
    headers = {"Authorization": f"Bearer {instance.token()}"}
    with httpx.Client(base_url=instance.url, headers=headers, timeout=PATIENCE_S) as client:
        for number in range(count):
            row = [20 + number % 60, *ROW[1:]]
            tensor = {"name": "input", "shape": [1, 16], "datatype": "FP32", "data": row}
            answer = client.post("/v2/models/census-employment/infer", json={"inputs": [tensor]})
            assert answer.status_code == 200


def serving(instance: Instance, *arguments: str, expected: int = 0) -> Any:
    """What a verb prints as JSON."""
    done = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "serving", *arguments, "--json", "--config", str(instance.config)],
        capture_output=True,
        check=False,
    )
    assert done.returncode == expected, done.stderr.decode()
    return json.loads(done.stdout)


def pairs_of(instance: Instance) -> int:
    found = re.search(
        r"^serving_comparison_pairs_total{.*} (\S+)$", instance.scrape(), re.MULTILINE
    )
    return 0 if found is None else round(float(found[1]))


def eventually(instance: Instance, holds: Callable[[], object]) -> None:
    """Returns once what the monitor does shows."""

    def look() -> object:
        instance.hasten()
        return holds()

    wait_until(look, within_s=PATIENCE_S)


def test_pairs_are_compared_through_kills_and_signed(tmp_path: Path) -> None:
    """Every pair once, whenever the monitor is killed; the verdict's pairs are those of the log, and a
    flipped byte of it is found."""
    with Instance(tmp_path, deployments=(SHADOWED,)) as instance:
        instance.expect("ready")
        send(instance, REQUESTS)
        eventually(instance, lambda: pairs_of(instance) == REQUESTS)
        os.kill(pid_of(instance), signal.SIGKILL)
        send(instance, REQUESTS)
        eventually(instance, lambda: pairs_of(instance) == 2 * REQUESTS)
        (told,) = serving(instance, "status")["monitor"]["comparisons"]
        live = serving(instance, "verdict", "live", "census-employment")["comparisons"][0]
        issued = serving(
            instance, "verdict", "issue", "census-employment", "--candidate", "2", "--reason", "r"
        )
        file = tmp_path / "verdict.json"
        serving(
            instance, "verdict", "show", "census-employment", issued["id"], "--output", str(file)
        )
        log = ("--log", str(instance.data_dir / "log"))
        verified = serving(instance, "verdict", "verify", str(file), *log)
        window = serving(
            instance,
            "compare",
            "census-employment",
            "--candidate",
            "2",
            "--since",
            "1h",
            expected=1,
        )
        stopped = instance.stop()

    assert live["counts"]["pairs"] == live["counts"]["primaries"] == 2 * REQUESTS
    assert (live["gap"], live["decision"]["outcome"]) == (0.0, "hold")
    assert (told["pairs"], told["outcome"]) == (2 * REQUESTS, "hold")
    assert [(each["of"], each["found"]) for each in verified["recounted"]] == [(80, 80)]
    assert verified["findings"] == []
    assert window["counts"]["pairs"] == 2 * REQUESTS
    assert _estimates(window) == _estimates(live)
    file.write_bytes(file.read_bytes().replace(b'"payload":"ey', b'"payload":"eX', 1))
    broken = subprocess.run(  # noqa: S603 - our own command
        [sys.executable, "-m", "serving", "verdict", "verify", str(file), "--config",
         str(instance.config)],
        capture_output=True, check=False,
    )  # fmt: skip
    assert (broken.returncode != 0, stopped) == (True, 0)


def _estimates(report: dict[str, Any]) -> dict[tuple[str, str], tuple[int, float | None]]:
    """Of each figure but those of time, which a stored answer may not tell again."""
    return {
        (each["name"], each["slice"]): (each["n"], each["estimate"])
        for each in report["figures"]
        if "missing" not in each["name"]
    }


def test_every_source_is_compared_alike(tmp_path: Path) -> None:
    """A replay, a data set with truths and slices, and the primary against itself."""
    model = "census-employment"
    with Instance(tmp_path, deployments=({"model": model, "stable": "1"},)) as instance:
        instance.expect("ready")
        send(instance, REQUESTS)
        replay = str(tmp_path / "r.jsonl")
        subprocess.run(  # noqa: S603 - our own command
            [sys.executable, "-m", "serving", "replay", "--model", model, "--since", "1h",
             "--against", "2", "--output", replay, "--config", str(instance.config)],
            capture_output=True, check=False,
        )  # fmt: skip
        floor = serving(instance, "compare", model, "--noise-floor", "--since", "1h")
        replayed = serving(
            instance, "compare", model, "--candidate", "2", "--replay", replay, "--by", "AGEP",
            expected=1,
        )  # fmt: skip
        rows = np.array([[20 + n % 60, *ROW[1:]] for n in range(300)], np.float32)
        np.savez(tmp_path / "set.npz", input=rows, label=np.arange(300) % 2)
        judged = serving(
            instance, "compare", model, "--candidate", "2", "--data", str(tmp_path / "set.npz"),
            "--by", "AGEP", expected=1,
        )  # fmt: skip
        instance.stop()

    assert all(count == [0, REQUESTS] for count in floor["floor"].values())
    assert (replayed["source"], replayed["counts"]["pairs"]) == ("replay", REQUESTS)
    assert replayed["floor"] == floor["floor"]
    assert judged["decision"]["outcomes"] == judged["decision"]["pairs"] == 300
    assert len({each["slice"] for each in judged["figures"]}) > 10
