"""A canary on the wires: the headers that decide, and what the answers and records say of it."""

from dataclasses import replace
from typing import Any

import pytest

from serving.core.models import VersionName
from serving.core.principals import Role
from serving.core.traffic import Arm
from tests.edge.grpc.wire import INFER, caller, encoded, rows
from tests.places import InProcess, a_row

PATH = "/v2/models/doubler/infer"


def publish(in_process: InProcess, epoch: int, **terms: Any) -> None:
    """Another policy for the doubler; terms: of its `TrafficPolicy`."""
    snapshot = in_process.snapshot
    policies = tuple(
        replace(policy, **terms) if policy.model == "doubler" else policy
        for policy in snapshot.policies
    )
    in_process.worker.apply(replace(snapshot, epoch=epoch, policies=policies))


async def test_sh_12_sticky_key_decides_on_both_wires(in_process: InProcess) -> None:
    """The same key meets the same version over HTTP and gRPC; different keys meet both."""
    publish(in_process, 2, arms=(Arm(VersionName("2"), 5000),), sticky="header", salt="spring")
    met: dict[str, set[str]] = {}
    async with in_process.place.client("ada") as http, caller(in_process, "ada") as grpc:
        for key in (f"k{number}" for number in range(8)):
            answer = await http.post(PATH, json=a_row(1), headers={"Serving-Sticky-Key": key})
            call = grpc.call(
                INFER, encoded(rows(1)), metadata=(*grpc.metadata, ("serving-sticky-key", key))
            )
            await call
            trailers = dict(await call.trailing_metadata())
            met[key] = {
                answer.headers["serving-model-version"],
                str(trailers["serving-model-version"]),
            }

    assert {len(versions) for versions in met.values()} == {1}
    assert set[str]().union(*met.values()) == {"1", "2"}


async def test_tester_chooses_on_both_wires(in_process: InProcess) -> None:
    """`Serving-Version` is for testers; what they chose says so in its record."""
    publish(in_process, 2, shadows=(), testers=("tess",))
    async with in_process.place.client("tess") as http, caller(in_process, "tess") as grpc:
        answer = await http.post(PATH, json=a_row(1), headers={"Serving-Version": "2"})
        call = grpc.call(
            INFER, encoded(rows(1)), metadata=(*grpc.metadata, ("serving-version", "2"))
        )
        await call
        trailers = dict(await call.trailing_metadata())
    async with in_process.place.client("ada") as other:
        refused = await other.post(PATH, json=a_row(1), headers={"Serving-Version": "2"})

    assert (answer.status_code, refused.status_code) == (200, 403)
    for prediction_id in (
        answer.headers["serving-prediction-id"],
        str(trailers["serving-prediction-id"]),
    ):
        record = in_process.place.record(prediction_id)
        assert record is not None
        assert (record.version, record.chosen) == ("2", True)


@pytest.mark.parametrize(
    ("path", "said"),
    [("/v2/models/doubler/versions/1/infer", "2"), (PATH, ""), (PATH, "x" * 64)],
)
async def test_version_that_is_not_clear_is_refused(
    in_process: InProcess, path: str, said: str
) -> None:
    """Two different ones, an empty one, a name that no version can have."""
    async with in_process.place.client("boss", role=Role.OPERATOR) as http:
        answer = await http.post(path, json=a_row(1), headers={"Serving-Version": said})

    assert (answer.status_code, answer.json()["code"]) == (400, "invalid_parameter")
