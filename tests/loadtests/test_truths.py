"""Real predictions and their truths, a small part of them, through the product and back joined."""

import shutil
from pathlib import Path

import httpx
import numpy as np
import pytest

from loadtests.streams import Stream, read_flights, write_logistic
from loadtests.truths import Replayer, check, misses
from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.settings import Deployment
from tests.places import InProcess

SAMPLE = Path(__file__).parents[1] / "data" / "flights-2013-sample.csv"
CENSUS = DEFAULT_MODELS_DIR / "census-employment"
DAY_S = 86_400


async def replayed(folder: Path, stream: Stream) -> dict[str, object]:
    """What `check` says of a stream that went through the product; its model lies in the folder."""
    instance = InProcess(folder)
    deployments = (Deployment(model=stream.model, stable="1"),)
    instance.settings = instance.settings.model_copy(update={"deployments": deployments})
    await instance.start()
    place = instance.place
    headers = {**place.authorization(), "Content-Type": "application/json"}
    async with httpx.AsyncClient(base_url=place.url, headers=headers, timeout=20) as client:
        outcome = await Replayer(stream, client, advanced=lambda _done: None).run()
    await instance.aclose()
    return check(stream, outcome, place.data_dir / "log", place.data_dir / "cold")


async def test_flights_are_labelled_when_they_have_landed(tmp_path: Path) -> None:
    """Each flight gets its own truth, hours after it was asked; the cancelled ones never get one."""
    with SAMPLE.open() as lines:
        stream = read_flights(lines)
    known = ~np.isnan(stream.truth)
    write_logistic(tmp_path / "models", stream.x[known], stream.truth[known])

    report = await replayed(tmp_path, stream)

    assert report["findings"] == []
    assert (report["rows"], report["labelled"]) == (len(stream.x), int(known.sum()))
    assert 0 < len(stream.x) - int(known.sum()) < 100


async def test_census_of_a_year(tmp_path: Path) -> None:
    """The demo model on rows it never saw: labels a year late are joined to the right rows."""
    x = np.load(CENSUS / "samples" / "rows.npy").astype(np.float32)
    truth = np.load(CENSUS / "samples" / "labels.npy").astype(np.float64)
    asked_s = 1_451_606_400 + np.arange(len(x), dtype=np.int64) * 3600
    stream = Stream(
        "census-employment", "employed", "employed", x, asked_s, truth, asked_s + 365 * DAY_S,
        np.full(len(x), "2016"),
    )  # fmt: skip
    shutil.copytree(CENSUS, tmp_path / "models" / "census-employment")

    report = await replayed(tmp_path, stream)

    assert report["findings"] == []
    groups = report["groups"]
    assert isinstance(groups, dict)
    assert groups["2016"]["rows"] == len(x)
    assert groups["2016"]["auc"] >= 0.89
    assert groups["2016"]["brier"] <= 0.13


@pytest.mark.parametrize(("brier", "found"), [(0.12, 0), (0.14, 1)])
def test_a_model_that_got_worse_is_noticed(brier: float, found: int) -> None:
    """A group above its goal is a miss."""
    groups = {year: {"brier": 0.12, "base_rate": 0.5} for year in ("2016", "2017")}
    groups["2018"] = {"brier": brier, "base_rate": 0.5}

    assert len(misses("census", groups, whole=True)) == found
