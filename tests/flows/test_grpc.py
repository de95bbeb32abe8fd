"""The same stories over gRPC: what is answered is recorded, and what is not has a reason."""

import asyncio
from typing import Any

import pytest

from serving.core.clock import SystemClock
from serving.core.predictions import Fate, PredictionRecord
from serving.core.principals import Role
from serving.core.traffic import Snapshot
from serving.edge.grpc import inference_pb2
from tests.catalogue import SLOW
from tests.edge.grpc.wire import INFER, caller, encoded, rows
from tests.places import InProcess, Place, eventually, rows_of

TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
PATIENT_US = 20_000_000


def named(place: Place, request_id: str) -> list[PredictionRecord]:
    """The records of answers and failures that a caller gave this id."""
    records = [record for record in place.records() if not record.shadow_of]
    return [record for record in records if record.request_id == request_id]


async def test_answer_and_record_are_the_same(in_process: InProcess) -> None:
    """The trailers name the version, its digest, the batch, and the one record of the answer."""
    async with caller(in_process, "ada") as ada:
        trace = ("traceparent", f"00-{TRACE}-00f067aa0ba902b7-01")
        call = ada.call(INFER, encoded(rows(1, 2, request_id="a")), metadata=(*ada.metadata, trace))
        answer = await call
        trailers = dict(await call.trailing_metadata())

    record = in_process.place.record(trailers["serving-prediction-id"])
    assert record is not None
    assert inference_pb2.ModelInferResponse.FromString(answer).id == "a"
    assert rows_of(record) == [[2.0, 0.0], [4.0, 0.0]]
    assert (record.fate, record.principal, record.request_id) == (Fate.OK, "ada", "a")
    assert (record.digest, record.version) == (
        trailers["serving-model-digest"],
        trailers["serving-model-version"],
    )
    assert f"{record.batch_id:x}" == trailers["serving-batch-id"]
    assert record.trace_id == TRACE


async def test_raw_requests_get_raw_answers(in_process: InProcess) -> None:
    """The elements stand in the answer the way they stood in the request."""
    message = rows(1.5)
    message.raw_input_contents.append(b"\x00\x00\xc0\x3f" + bytes(4))
    message.inputs[0].ClearField("contents")
    async with caller(in_process) as ada:
        answer = await ada.infer(message)
        typed = await ada.infer(rows(1.5))

    assert answer.raw_output_contents == [b"\x00\x00\x40\x40" + bytes(4)]
    assert not answer.outputs[0].HasField("contents")
    assert list(typed.outputs[0].contents.fp32_contents) == [3.0, 0.0]
    assert not typed.raw_output_contents


async def test_operator_pins_a_candidate(in_process: InProcess) -> None:
    """`model_version` names a version that only an operator sees."""
    message = rows(2)
    message.model_version = "2"
    async with caller(in_process, "boss", Role.OPERATOR) as boss:
        answer = await boss.infer(message)

    assert (answer.model_version, answer.outputs[0].contents.fp32_contents[0]) == ("2", 6.0)


@pytest.mark.parametrize("way", ["parameter", "deadline"])
async def test_a_late_answer_is_a_timeout_in_the_log(in_process: InProcess, way: str) -> None:
    """The shorter of the parameter and the call's own deadline holds; one record says so."""
    message = rows(SLOW, model="twin", request_id="late", timeout=20_000_000)
    options: dict[str, Any] = {"timeout": 0.06}
    if way == "parameter":
        message.parameters["timeout"].int64_param = 60_000
        options = {"timeout": 20.0}
    async with caller(in_process) as ada:
        refused = await ada.refused(message, **options)
        after = await ada.infer(rows(1, model="twin", timeout=PATIENT_US))

    await eventually(lambda: named(in_process.place, "late"))
    (record,) = named(in_process.place, "late")
    assert (refused.status, record.fate) == ("DEADLINE_EXCEEDED", Fate.TIMEOUT)
    assert after.outputs[0].contents.fp32_contents[0] == 2.0
    if way == "parameter":
        assert (refused.code, refused.request_id) == ("deadline_exceeded", record.prediction_id)


async def test_a_caller_that_leaves_frees_its_place_at_once(in_process: InProcess) -> None:
    """Within 50 ms, and the neighbours of the abandoned request get their answers."""
    pipeline, clock = in_process.worker.pipeline, SystemClock()
    async with caller(in_process) as ada:
        gone = ada.call(
            INFER, encoded(rows(SLOW, model="twin", request_id="gone", timeout=PATIENT_US))
        )
        await eventually(lambda: pipeline.admission.in_flight == 1)
        stays = ada.call(
            INFER, encoded(rows(3, model="twin", request_id="stays", timeout=PATIENT_US))
        )
        await eventually(lambda: pipeline.admission.in_flight == 2)
        left_ns = clock.monotonic_ns()
        gone.cancel()
        while pipeline.admission.in_flight > 1:  # noqa: ASYNC110 - looked at as often as can be
            await asyncio.sleep(0)
        freed_ns = clock.monotonic_ns()
        await stays

    await eventually(lambda: named(in_process.place, "gone"))
    ends = [record.fate for name in ("gone", "stays") for record in named(in_process.place, name)]
    assert ends == [Fate.CLIENT_GONE, Fate.OK]
    assert freed_ns - left_ns < 50_000_000


async def test_a_running_call_is_answered_before_the_worker_ends(in_process: InProcess) -> None:
    """Draining takes nothing new, answers what runs, and seals the log."""
    async with caller(in_process) as ada, caller(in_process) as late:
        running = ada.call(
            INFER, encoded(rows(SLOW, model="twin", request_id="last", timeout=PATIENT_US))
        )
        await eventually(lambda: in_process.worker.pipeline.admission.in_flight == 1)
        ending = asyncio.create_task(in_process.aclose())
        answer = await running
        await ending
        refused = await late.refused(rows(1), wait_for_ready=False)

    assert (bool(answer), refused.status) == (True, "UNAVAILABLE")
    assert [record.fate for record in named(in_process.place, "last")] == [Fate.OK]


async def test_without_a_replica_the_caller_is_told_to_come_back(in_process: InProcess) -> None:
    """UNAVAILABLE with our code and a RetryInfo, and a record of the request that waited."""
    versions, policies = in_process.snapshot.versions, in_process.snapshot.policies
    in_process.worker.apply(Snapshot(2, versions, policies))
    async with caller(in_process) as ada:
        refused = await ada.refused(rows(1, request_id="lost", timeout=50_000))

    assert (refused.status, refused.code) == ("UNAVAILABLE", "no_replica")
    assert refused.retry_s is not None
    assert [record.fate for record in named(in_process.place, "lost")] == [Fate.REPLICA_LOST]
