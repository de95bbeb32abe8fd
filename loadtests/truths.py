"""Replays real predictions and their truths, with the delay they had, through a running product.

    python -m loadtests.truths census|flights [--rows N] [--folder FOLDER]

Simulated days pass as fast as the product takes them: on each day the rows of that day are asked, then
the truths that became known on it are reported, in requests with several rows and reports. Each request
has its simulated moment as its id, each report as `observed_at`. In the end predictions and truths are
joined, and it is a failure (exit status 1) unless exactly the rows with a truth are labelled, each with
its own, nothing was rejected, and what the model was worth in each month or year is what `GOALS` says.
"""

import argparse
import asyncio
import json
import os
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

import httpx
import numpy as np
import orjson
import yaml
from numpy.typing import NDArray

from loadtests.children import LOOPBACK, running
from loadtests.datasets import DEFAULT_FOLDER
from loadtests.ports import free_ports
from loadtests.streams import FLIGHT_MODEL, Stream, census, flights, write_flight_model
from serving.access.issuer import LocalIssuer
from serving.cli.advance import Advance
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.ledger.joining import JoinFigures
from serving.ledger.labels import opened
from serving.ledger.places import Folder
from serving.ledger_settings import LedgerSettings
from serving.settings import AccessSettings

ROWS_A_REQUEST: Final = 32
REPORTS_A_REQUEST: Final = 1000
IN_FLIGHT: Final = 8
DAY_S: Final = 86_400
START_S: Final = 180.0
GOALS: Final[dict[str, dict[str, float]]] = {
    "census": {"2016": 0.130, "2017": 0.130, "2018": 0.130},
    "flights": {"03": 0.18, "06": 0.22, "09": 0.14, "12": 0.24},
}
"""Largest Brier score of a group."""
BASE_RATES: Final = {
    "03": 0.228, "04": 0.279, "05": 0.220, "06": 0.308, "07": 0.315, "08": 0.238, "09": 0.132,
    "10": 0.168, "11": 0.174, "12": 0.326,
}  # fmt: skip
"""Of the flights, as published: exact from the file to three digits."""


@dataclass(slots=True)
class Replayed:
    """What became of a stream: the prediction and the row of it that each of its rows is in."""

    ids: list[str]
    places: list[int]
    reported: int = 0
    asked: int = 0
    findings: list[str] = field(default_factory=list)


class Replayer:
    """Sends one stream to one inference port."""

    def __init__(
        self, stream: Stream, client: httpx.AsyncClient, *, advanced: Callable[[int], None]
    ) -> None:
        """advanced: told of rows asked and truths reported together."""
        self.outcome = Replayed([""] * len(stream.x), [0] * len(stream.x))
        self._stream = stream
        self._client = client
        self._advanced = advanced
        self._slots = asyncio.Semaphore(IN_FLIGHT)

    async def run(self) -> Replayed:
        """Day after day. Raises httpx.HTTPError when the product refuses."""
        stream = self._stream
        asked_day, known_day = stream.asked_s // DAY_S, stream.known_s // DAY_S
        due: dict[int, list[int]] = defaultdict(list)
        for index in np.flatnonzero(~np.isnan(stream.truth)):
            due[int(known_day[index])].append(int(index))
        askings = {int(day): np.flatnonzero(asked_day == day) for day in np.unique(asked_day)}
        for day in sorted({*askings, *due}):
            if day in askings:
                await self._all(self._ask, _parts(askings[day].tolist(), ROWS_A_REQUEST))
            await self._all(self._report, _parts(due.get(day, []), REPORTS_A_REQUEST))
        return self.outcome

    async def _all(self, send: Callable[[list[int]], Any], parts: Iterator[list[int]]) -> None:
        async def one(part: list[int]) -> None:
            async with self._slots:
                await send(part)

        async with asyncio.TaskGroup() as group:
            for part in parts:
                group.create_task(one(part))

    async def _ask(self, rows: list[int]) -> None:
        stream, outcome = self._stream, self.outcome
        x = stream.x[rows]
        tensor = {"name": "input", "datatype": "FP32", "shape": list(x.shape)}
        body = {
            "id": _time_text(int(stream.asked_s[rows[0]])),
            "inputs": [{**tensor, "data": x.ravel().tolist()}],
        }
        answer = await self._client.post(
            f"/v2/models/{stream.model}/infer", content=orjson.dumps(body)
        )
        answer.raise_for_status()
        for place, row in enumerate(rows):
            outcome.ids[row], outcome.places[row] = answer.headers["serving-prediction-id"], place
        outcome.asked += len(rows)
        self._advanced(outcome.asked + outcome.reported)

    async def _report(self, rows: list[int]) -> None:
        stream, outcome = self._stream, self.outcome
        body = [
            {
                "prediction_id": outcome.ids[row],
                "row": outcome.places[row],
                "name": stream.name,
                "value": float(stream.truth[row]),
                "observed_at": _time_text(int(stream.known_s[row])),
            }
            for row in rows
        ]
        path = f"/v2/models/{stream.model}/outcomes"
        answer = await self._client.post(path, content=orjson.dumps(body))
        answer.raise_for_status()
        outcome.reported += len(rows)
        self._advanced(outcome.asked + outcome.reported)


def check(stream: Stream, replayed: Replayed, log: Path, cold: Path) -> dict[str, Any]:
    """Joins what the ledger holds and compares it with the source: figures, and `findings`."""
    with opened(log, Folder(cold), folder=log.parent, settings=LedgerSettings()) as join:
        [figures] = [each for each in join.figures() if each.model == stream.model]
        view = "".join(each if each.isalnum() else "_" for each in stream.model)
        table = join.labelled(stream.model, predictions=view).read_all()
    places = {key: n for n, key in enumerate(zip(replayed.ids, replayed.places, strict=True))}
    keys = zip(table["prediction_id"].to_pylist(), table["row"].to_pylist(), strict=True)
    rows = np.array([places[key] for key in keys], int)
    truth = table[f"outcome_{stream.name}"].to_numpy()
    score = _scores(table[f"output_{stream.output}"])
    findings = _findings(stream, figures, rows=rows, truth=truth)
    groups = {
        str(group): _figures(score[stream.group[rows] == group], truth[stream.group[rows] == group])
        for group in np.unique(stream.group)
    }
    delay_h = (stream.known_s[rows] - stream.asked_s[rows]) / 3600
    return {
        "rows": len(stream.x),
        "labelled": len(rows),
        "completeness": figures.completeness,
        "label_delay_hours": [round(float(each), 1) for each in np.quantile(delay_h, (0.5, 0.99))],
        "groups": groups,
        "findings": findings,
    }


def _scores(column: Any) -> NDArray[np.float64]:
    return np.array([each[0] if isinstance(each, list) else each for each in column.to_pylist()])


def _findings(
    stream: Stream,
    figures: JoinFigures,
    *,
    rows: NDArray[np.int64],
    truth: NDArray[np.float64],
) -> list[str]:
    known = np.flatnonzero(~np.isnan(stream.truth))
    found = []
    if not np.array_equal(np.sort(rows), known):
        found.append(f"{len(rows)} rows are labelled, {len(known)} have a truth")
    elif not np.array_equal(truth, stream.truth[rows]):
        found.append("a row has another row's truth")
    if figures.predicted_rows != len(stream.x) or figures.labelled_rows != len(known):
        found.append(f"the figures say {figures.labelled_rows} of {figures.predicted_rows}")
    if figures.rejected or figures.duplicates:
        found.append(f"rejected {figures.rejected}, duplicates {figures.duplicates}")
    return found


def _figures(score: NDArray[np.float64], truth: NDArray[np.float64]) -> dict[str, float]:
    return {
        "rows": len(truth),
        "base_rate": round(float(truth.mean()), 4),
        "brier": round(float(((score - truth) ** 2).mean()), 4),
        "auc": round(_auc(score, truth), 4),
    }


def _auc(score: NDArray[np.float64], truth: NDArray[np.float64]) -> float:
    """Area under the curve of Mann and Whitney; ties count half."""
    _, place, counts = np.unique(score, return_inverse=True, return_counts=True)
    ranks = (np.cumsum(counts) - (counts - 1) / 2)[place]
    positive = truth == 1
    ones, zeros = int(positive.sum()), int((~positive).sum())
    return float((ranks[positive].sum() - ones * (ones + 1) / 2) / max(ones * zeros, 1))


def misses(name: str, groups: dict[str, dict[str, float]], *, whole: bool) -> list[str]:
    """Where a group is worse than `GOALS`; base rates are compared when every row was replayed."""
    found = [
        f"{group}: Brier {groups[group]['brier']} above {most}"
        for group, most in GOALS[name].items()
        if groups[group]["brier"] > most
    ]
    if name == "flights" and whole:
        found += [
            f"{group}: base rate {groups[group]['base_rate']}, published {rate}"
            for group, rate in BASE_RATES.items()
            if abs(groups[group]["base_rate"] - rate) > 0.001  # noqa: PLR2004 -- rounding
        ]
    return found


def _parts(rows: list[int], size: int) -> Iterator[list[int]]:
    for start in range(0, len(rows), size):
        yield rows[start : start + size]


def _time_text(seconds: int) -> str:
    return datetime.fromtimestamp(seconds, UTC).isoformat()


@contextmanager
def _product(folder: Path, model: str, models_dir: Path | None) -> Iterator[tuple[str, Path]]:
    """(URL, data directory) of an instance that serves `model`."""
    ports = dict(zip(("http", "grpc", "metrics", "control"), free_ports(4), strict=True))
    data_dir = folder / "data"
    values: dict[str, Any] = {name: {"port": port} for name, port in ports.items()}
    values |= {"data_dir": str(data_dir), "deployments": [{"model": model, "stable": "1"}]}
    values |= {"inference": {"engine": "local", "device": "cpu"}}
    if models_dir is not None:
        values["models_dir"] = str(models_dir)
    config = folder / "serving.yaml"
    config.write_text(yaml.safe_dump(values))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SERVING_")}
    command = [sys.executable, "-m", "serving", "up", "--json", "--config", str(config)]
    with running(command, name="truths", folder=folder, environment=environment) as child:
        child.wait_for('"event":"ready"', limit_s=START_S)
        yield f"http://{LOOPBACK}:{ports['http']}", data_dir


async def _replay(stream: Stream, url: str, data_dir: Path) -> Replayed:
    clock = SystemClock()
    issuer = LocalIssuer.open(data_dir / "keys", AccessSettings(), clock)
    token = issuer.issue(subject="truths", roles=[Role.CALLER], ttl_s=12 * 3600)
    headers = {"Authorization": f"Bearer {token}", "Content-Type": "application/json"}
    total = len(stream.x) + int((~np.isnan(stream.truth)).sum())
    advance = Advance("rows and truths", clock, total=total)
    async with httpx.AsyncClient(base_url=url, headers=headers, timeout=60) as client:
        replayed = await Replayer(stream, client, advanced=advance.to).run()
    advance.end()
    return replayed


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("name", choices=sorted(GOALS))
    parser.add_argument("--rows", type=int, help="an even sample of so many")
    parser.add_argument("--folder", type=Path, default=DEFAULT_FOLDER, help="for the data sets")
    wanted = parser.parse_args()
    models_dir: Path | None = None
    if wanted.name == "flights":
        models_dir = wanted.folder / "models"
        write_flight_model(models_dir, wanted.folder)
        stream = flights(wanted.folder, wanted.rows)
    else:
        stream = census(wanted.folder, wanted.rows)
    with tempfile.TemporaryDirectory(prefix="serving-truths-") as temporary:
        folder = Path(temporary)
        model = FLIGHT_MODEL if models_dir is not None else stream.model
        with _product(folder, model, models_dir) as (url, data_dir):
            replayed = asyncio.run(_replay(stream, url, data_dir))
            report = check(stream, replayed, data_dir / "log", data_dir / "ledger" / "cold")
    report["findings"] += misses(wanted.name, report["groups"], whole=wanted.rows is None)
    sys.stdout.write(json.dumps(report, indent=2) + "\n")
    sys.exit(bool(report["findings"]))


if __name__ == "__main__":
    main()
