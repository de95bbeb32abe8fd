import asyncio
from pathlib import Path

from serving.core.predictions import Fate
from serving.edge.grpc import inference_pb2
from serving.edge.grpc.stream import WINDOW
from tests.catalogue import SLOW
from tests.edge.grpc.wire import STREAM, caller, encoded, rows, started
from tests.places import InProcess, eventually


def ids_of(answers: list[inference_pb2.ModelStreamInferResponse]) -> list[str]:
    return sorted(answer.infer_response.id for answer in answers)


async def test_each_request_of_a_stream_has_its_own_answer(in_process: InProcess) -> None:
    """More requests than fit the window: every one is answered once, and recorded once."""
    count = 2 * WINDOW + 3
    async with caller(in_process) as ada:
        answers = await ada.stream([rows(n, request_id=str(n)) for n in range(count)])

    values = {
        answer.infer_response.id: answer.infer_response.outputs[0].contents.fp32_contents[0]
        for answer in answers
    }
    assert values == {str(n): 2.0 * n for n in range(count)}
    ids = {each.infer_response.parameters["serving-prediction-id"].string_param for each in answers}
    records = [record for record in in_process.place.records() if not record.shadow_of]
    assert {record.prediction_id for record in records} == ids
    assert len(records) == len(ids) == count


async def test_a_failing_request_does_not_end_its_stream(in_process: InProcess) -> None:
    """Its error comes with its id and our code; those around it are answered."""
    messages = [rows(1, request_id="a"), rows(1, model="tripler", request_id="b"), b"\xff"]
    async with caller(in_process) as ada:
        answers = await ada.stream([*messages, rows(2, request_id="c")])

    failed = {
        answer.infer_response.id: answer.infer_response.parameters["code"].string_param
        for answer in answers
        if answer.error_message
    }
    assert failed == {"b": "model_not_found", "": "invalid_message"}
    assert ids_of(answers) == ["", "a", "b", "c"]


async def test_a_late_request_of_a_stream_is_a_timeout(in_process: InProcess) -> None:
    """The `timeout` parameter holds for each request by itself."""
    late = rows(SLOW, model="twin", request_id="late", timeout=60_000)
    async with caller(in_process) as ada:
        (answer,) = await ada.stream([late])

    told = answer.infer_response.parameters
    record = in_process.place.record(told["request_id"].string_param)
    assert told["code"].string_param == "deadline_exceeded"
    assert record is not None
    assert record.fate is Fate.TIMEOUT


async def test_a_client_that_leaves_frees_every_place_of_its_stream(in_process: InProcess) -> None:
    """Each request that was running is recorded as given up by its client."""
    pipeline = in_process.worker.pipeline
    async with caller(in_process) as ada:
        stream = ada.channel.stream_stream(STREAM)(metadata=ada.metadata)
        for _ in range(3):
            await stream.write(encoded(rows(SLOW, model="twin", timeout=20_000_000)))
        await eventually(lambda: pipeline.admission.in_flight == 3)
        stream.cancel()
        await eventually(lambda: pipeline.admission.in_flight == 0)

    await eventually(lambda: len(in_process.place.records()) == 3)
    assert {record.fate for record in in_process.place.records()} == {Fate.CLIENT_GONE}


async def test_draining_ends_an_idle_stream_and_answers_a_busy_one(tmp_path: Path) -> None:
    """An open stream does not hold up the end; what it had sent is answered."""
    async with started(tmp_path) as place, caller(place) as ada:
        idle = ada.channel.stream_stream(STREAM)(metadata=ada.metadata)
        busy = ada.channel.stream_stream(STREAM)(metadata=ada.metadata)
        await idle.write(encoded(rows(1)))
        await idle.read()
        await busy.write(encoded(rows(SLOW, model="twin", timeout=20_000_000)))
        await eventually(lambda: place.worker.pipeline.admission.in_flight == 1)
        async with asyncio.timeout(10):
            await place.worker.grpc.aclose(drain_s=60)
        answers = [answer async for answer in busy]
        ends = [(await stream.code()).name for stream in (idle, busy)]

    assert (len(answers), ends) == (1, ["OK", "OK"])
