"""One request, several models: what an ensemble's caller, its stages and the log see."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.core.batches import RowFailure
from serving.core.models import (
    BatchLimits,
    Digest,
    ModelName,
    ModelVersion,
    Stage,
    VersionName,
)
from serving.core.predictions import Fate, PredictionRecord
from serving.core.tensors import Array, TensorSpecification
from serving.core.traffic import Shadow, Snapshot, TrafficPolicy
from serving.errors import LogUnavailable, QueueFull
from tests.gateway.stand import DOUBLER, Client, MemoryLink, Stand, a_stand, counted
from tests.plans import a_version

ADDER = replace(a_version("adder"), batching=BatchLimits(max_batch_size=2))
CUTTER = replace(
    a_version("cutter"),
    inputs=(TensorSpecification("x", "FP32", (-1, 2), batched=False),),
    outputs=(TensorSpecification("y", "FP32", (-1, 2), batched=False),),
    batched=False,
)


def a_stage(name: str, version: ModelVersion, taken: str, given: str) -> Stage:
    return Stage(
        name, version.model, version.version, version.digest, (("x", taken),), (("y", given),)
    )


def an_ensemble(*stages: Stage, version: str = "1", batched: bool = True) -> ModelVersion:
    """From `x` to `y`, FP32 rows of two."""
    return replace(
        a_version("pair", version),
        digest=Digest("ee" * 32),
        inputs=(TensorSpecification("x", "FP32", (-1, 2), batched=batched),),
        outputs=(TensorSpecification("y", "FP32", (-1, 2), batched=batched),),
        batched=batched,
        stages=stages,
    )


DOUBLED = a_stage("doubling", DOUBLER, "x", "twice")
PAIR = an_ensemble(DOUBLED, a_stage("adding", ADDER, "twice", "y"))


def added(array: Array) -> Array:
    return np.add(array, np.float32(1))


def serve(stand: Stand, *versions: ModelVersion, shadows: tuple[str, ...] = ()) -> None:
    """Gives the first version the traffic of its model, and every other model's its own."""
    policies = [
        TrafficPolicy(
            versions[0].model,
            versions[0].version,
            tuple(Shadow(VersionName(name)) for name in shadows),
        ),
        TrafficPolicy(ModelName(DOUBLER.model), DOUBLER.version),
    ]
    stand.pipeline.apply(
        Snapshot(epoch=2, versions=(*versions, DOUBLER, ADDER, CUTTER), policies=tuple(policies))
    )


def a_caller(stand: Stand, value: float = 3, **request: object) -> Client:
    client = stand.client(value, **request)  # type: ignore[arg-type]  # passed on as given
    client.model = PAIR.model
    return client


def answer(stand: Stand, *links: MemoryLink) -> None:
    for link in links:
        link.answer()
        stand.turns.run()


def records_of(stand: Stand, model: str) -> list[PredictionRecord]:
    return [record for record in stand.log.records if record.model == model]


@pytest.fixture
def doubling(stand: Stand) -> MemoryLink:
    serve(stand, PAIR)
    return stand.connect(MemoryLink())


@pytest.fixture
def adding(stand: Stand, doubling: MemoryLink) -> MemoryLink:
    return stand.connect(MemoryLink(added), ADDER)


def test_what_one_stage_gives_the_next_one_takes(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """The caller gets one answer, that of the last stage."""
    client = a_caller(stand, 3)
    stand.send(client)
    answer(stand, doubling, adding)

    assert client.answers == [[7, 7]]
    assert client.heard == 1
    assert stand.pipeline.idle


def test_an_ensemble_is_one_record_with_its_parts(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """Each stage leaves a record that names the ensemble's, and none of them is a copy."""
    stand.send(a_caller(stand, 3))
    answer(stand, doubling, adding)

    (whole,) = records_of(stand, "pair")
    parts = [*records_of(stand, "doubler"), *records_of(stand, "adder")]
    assert [part.part_of for part in parts] == [whole.prediction_id] * 2
    assert [part.shadow_of for part in (whole, *parts)] == [""] * 3
    assert [np.asarray(part.outputs[0].array).tolist() for part in parts] == [[[6, 6]], [[7, 7]]]
    assert (whole.part_of, whole.fate, whole.run_us) == ("", Fate.OK, 400)
    assert {part.principal for part in parts} == {whole.principal}


def test_parts_share_frames_with_everybody_elses_calls(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """A stage's version batches calls of ensembles and of callers together."""
    other, client = stand.client(5), a_caller(stand, 3)
    stand.send(other, client, a_caller(stand, 4))
    doubling.answer()  # What the other one sent was first.
    doubling.answer()
    stand.turns.run()
    answer(stand, adding)

    assert other.answers == [[10, 10]]
    assert adding.sent[0].rows == 2
    assert client.answers == [[7, 7]]
    plain = [record for record in records_of(stand, "doubler") if not record.part_of]
    assert len(plain) == 1


def test_calls_and_parts_of_one_frame_are_told_apart(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """In a frame of both each gets its own rows, and only parts are recorded as parts."""
    stand.pipeline.infer(client := a_caller(stand, 3))
    stand.turns.due.popleft()()  # The run begins; its part waits for the next turn.
    stand.pipeline.infer(other := stand.client(5))
    stand.turns.run()
    answer(stand, doubling, adding)

    assert doubling.sent[0].rows == 2
    assert (client.answers, other.answers) == ([[7, 7]], [[10, 10]])
    assert sorted(bool(record.part_of) for record in records_of(stand, "doubler")) == [False, True]


def test_the_answer_waits_for_all_records(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """Stages go on while records are being written; the answer leaves when all are durable."""
    client = a_caller(stand, 3)
    stand.log.held = True
    stand.send(client)
    answer(stand, doubling, adding)
    assert client.heard == 0

    stand.log.commit()
    stand.turns.run()
    assert client.heard == 0
    stand.log.commit()

    assert client.answers == [[7, 7]]


def test_a_part_that_cannot_be_recorded_costs_the_answer(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """No record of a part, no answer to the whole (fail closed)."""
    client = a_caller(stand)
    stand.send(client)
    stand.log.failure = LogUnavailable("the disk is gone")
    answer(stand, doubling)

    assert client.codes == ["log_unavailable"]
    assert adding.sent == []
    assert stand.pipeline.idle


def test_a_stage_that_fails_fails_the_request_by_its_name(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """The message and the caller's record name the stage; the error is the stage's own."""
    client = a_caller(stand)
    stand.send(client)
    answer(stand, doubling)
    adding.answer({0: RowFailure.MODEL_ERROR})
    stand.turns.run()

    assert client.codes == ["model_error"]
    assert client.refusals[0].message.startswith("stage adding: ")
    (whole,) = records_of(stand, "pair")
    assert (whole.fate, whole.reason) == (Fate.MODEL_ERROR, "model_error: stage adding")
    assert records_of(stand, "adder")[0].part_of == whole.prediction_id
    assert stand.pipeline.idle


def test_a_client_that_goes_away_takes_its_parts_with_it(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """What is under way for nobody ends at once, is recorded so, and no further stage begins."""
    client = a_caller(stand)
    stand.send(client)
    client.go_away()
    answer(stand, doubling)

    assert adding.sent == []
    assert [record.fate for record in stand.log.records] == [Fate.CLIENT_GONE] * 2
    assert stand.pipeline.idle


def test_the_deadline_is_that_of_all_stages_together(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """A stage has what is left of the request's time; the error names the stage that it ended in."""
    client = a_caller(stand, timeout_s=0.5)
    stand.send(client)
    stand.pass_time(0.3)
    answer(stand, doubling)
    stand.pass_time(0.3)

    assert adding.sent[0].budget_us == 200_000
    assert client.codes == ["deadline_exceeded"]
    assert "stage adding" in client.refusals[0].message
    assert {record.fate for record in records_of(stand, "adder")} <= {
        Fate.TIMEOUT,
        Fate.CLIENT_GONE,
    }
    assert stand.pipeline.idle


def test_a_request_is_admitted_once(stand: Stand, doubling: MemoryLink, adding: MemoryLink) -> None:
    """Its parts take no places of their own."""
    stand.send(a_caller(stand))

    assert stand.pipeline.admission.in_flight == 1
    answer(stand, doubling)
    assert stand.pipeline.admission.in_flight == 1
    answer(stand, adding)
    assert stand.pipeline.admission.in_flight == 0


def test_more_rows_than_a_batch_become_several_calls(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """Rows are cut by the stage's largest batch, and put together in their order."""
    client = a_caller(stand, 3, rows=5)
    stand.send(client)
    answer(stand, doubling)
    while adding.frames:
        answer(stand, adding)

    assert client.answers == [[7.0] * 10]
    assert len(records_of(stand, "adder")) == 3
    assert sum(record.rows for record in records_of(stand, "adder")) == 5


@pytest.mark.parametrize("rows", [0, 3])
def test_rows_may_become_more_or_none(stand: Stand, rows: int) -> None:
    """A picture has n lines: the stages behind run n rows, and for none they are not run."""
    lines = an_ensemble(
        a_stage("cutting", CUTTER, "x", "lines"),
        a_stage("doubling", DOUBLER, "lines", "y"),
        batched=False,
    )
    serve(stand, lines)
    cutting = stand.connect(MemoryLink(lambda _array: np.ones((1, rows, 2), np.float32)), CUTTER)
    doubling = stand.connect(MemoryLink())
    client = a_caller(stand).as_a_whole()
    stand.send(client)
    answer(stand, cutting, *([doubling] if rows else []))

    assert client.answers == [[2.0] * 2 * rows]
    assert [batch.rows for batch in doubling.sent] == ([rows] if rows else [])


def test_stages_that_do_not_need_each_other_run_together(stand: Stand) -> None:
    """A stage starts when all it takes is there, not when the one before it in the list is done."""
    forked = an_ensemble(
        DOUBLED,
        a_stage("aside", ADDER, "x", "more"),
        a_stage("adding", ADDER, "twice", "y"),
    )
    serve(stand, forked)
    doubling, adding = stand.connect(MemoryLink()), stand.connect(MemoryLink(added), ADDER)
    client = a_caller(stand, 3)
    stand.send(client)

    assert (len(doubling.sent), len(adding.sent)) == (1, 1)
    answer(stand, adding, doubling, adding)
    assert client.answers == [[7, 7]]


def test_a_stage_of_another_digest_is_not_run(stand: Stand, doubling: MemoryLink) -> None:
    """An ensemble whose stage was exchanged underneath is not ready, and refuses by its name."""
    strange = replace(DOUBLED, digest=Digest("99" * 32))
    serve(stand, an_ensemble(strange, PAIR.stages[1]))
    stand.connect(MemoryLink(added), ADDER)
    client = a_caller(stand)
    stand.send(client)

    assert stand.pipeline.table.unready == ["pair@1"]
    assert client.codes == ["no_replica"]
    assert "stage doubling" in client.refusals[0].message
    assert doubling.sent == []


def test_an_ensemble_is_ready_when_its_stages_are(stand: Stand, doubling: MemoryLink) -> None:
    """It has no replicas of its own."""
    assert stand.pipeline.table.unready == ["pair@1"]

    stand.connect(MemoryLink(added), ADDER)

    assert stand.pipeline.table.unready == []


def test_numbers_that_are_none_are_the_callers_or_the_stages_doing(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """NaN in the request is refused as for any model; NaN between stages is a bad answer of one."""
    serve(stand, PAIR)
    strange = stand.connect(MemoryLink(lambda array: np.full_like(array, np.nan)))
    doubling.ready = False
    bad, good = a_caller(stand, float("nan"), vetted=False), a_caller(stand, 3, vetted=False)
    stand.send(bad, good)
    answer(stand, strange)

    assert bad.codes == ["non_finite_input"]
    assert good.codes == ["model_output_invalid"]
    assert "stage adding" in good.refusals[0].message


def test_parts_leave_by_the_priority_of_their_request(tmp_path: Path) -> None:
    """What is urgent to its caller overtakes the rest of its caller's at every stage."""
    stand = a_stand(tmp_path, channel={"max_frame_rows": 1})
    serve(stand, PAIR)
    doubling = stand.connect(MemoryLink(allowed_frames=1))
    stand.connect(MemoryLink(added), ADDER)
    stand.send(a_caller(stand, 1), a_caller(stand, 2, priority=3), a_caller(stand, 3, priority=1))
    for _ in range(3):
        answer(stand, doubling)
        stand.queue().wake()
        stand.turns.run()

    order = [batch.tensors[0].array(1).tolist()[0][0] for batch in doubling.sent]
    assert order in ([3, 1, 2], [1, 3, 2])


def test_an_ensemble_may_be_a_shadow(stand: Stand) -> None:
    """A copy for an ensemble runs its stages; its parts belong to the copy, and nobody waits."""
    plain = replace(a_version("pair", "0"), digest=Digest("aa" * 32))
    serve(stand, plain, PAIR, shadows=("1",))
    primary = stand.connect(MemoryLink(), plain)
    doubling, adding = stand.connect(MemoryLink()), stand.connect(MemoryLink(added), ADDER)
    client = a_caller(stand, 3)
    stand.send(client)
    answer(stand, primary)
    assert client.answers == [[6, 6]]

    answer(stand, doubling, adding)

    first, copy = records_of(stand, "pair")
    assert (copy.version, copy.shadow_of) == ("1", first.prediction_id)
    assert np.asarray(copy.outputs[0].array).tolist() == [[7, 7]]
    assert records_of(stand, "adder")[0].part_of == copy.prediction_id


def test_stages_are_counted_under_their_own_versions(
    stand: Stand, doubling: MemoryLink, adding: MemoryLink
) -> None:
    """Requests, times and batches of a stage are those of its version."""
    stand.send(a_caller(stand))
    answer(stand, doubling, adding)

    for model in ("pair", "doubler", "adder"):
        assert counted(stand, "serving_requests_total", f'model="{model}"', 'fate="ok"') == 1


def test_a_full_stage_refuses_before_anything_is_begun(tmp_path: Path) -> None:
    """A newcomer is judged by the fullest of the stages; nothing is admitted that must wait in vain."""
    stand = a_stand(tmp_path, admission={"max_queued_rows": 2})
    serve(stand, PAIR)
    stand.send(stand.client(), stand.client())
    stand.pass_time(0.02)

    with pytest.raises(QueueFull):
        stand.send(a_caller(stand))
    assert stand.pipeline.admission.in_flight == 2
