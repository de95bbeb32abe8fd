import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from serving.core.batches import BatchAnswer, BatchPart, RowFailure
from serving.core.predictions import Fate
from serving.core.principals import Role
from serving.errors import (
    CallerLimitReached,
    DeadlineExceeded,
    Forbidden,
    LogStorageFull,
    LogUnavailable,
    ModelNotFound,
    QueueFull,
    ServingError,
    ShapeInvalid,
    Unauthenticated,
)
from serving.gateway.batching import MAX_ATTEMPTS
from tests.gateway.stand import (
    CANDIDATE,
    DOUBLER,
    BrokenLink,
    Client,
    MemoryLink,
    Stand,
    a_snapshot,
    a_stand,
    answer_to,
    counted,
    doubled,
)

# -- one good request ------------------------------------------------------------------------------


def test_answer_waits_for_its_record(stand: Stand) -> None:
    """The answer leaves when the log says that the record is durable, and not before."""
    link = stand.connect(MemoryLink())
    client = stand.client(3)
    stand.log.held = True
    stand.send(client)
    link.answer()
    assert (client.heard, len(stand.log.records)) == (0, 1)

    stand.log.commit()

    assert client.answers == [[6, 6]]


def test_record_says_what_was_asked_and_answered_and_by_what(stand: Stand) -> None:
    """Inputs, outputs, caller, version, digest, epoch, batch and times of one request."""
    link = stand.connect(MemoryLink())
    stand.clock.advance(100)
    stand.pipeline.sweep()
    client = stand.client(3, subject="ada")
    stand.pipeline.infer(client)
    stand.clock.advance(0.002)
    stand.turns.run()
    stand.clock.advance(0.005)
    link.answer()

    [record] = stand.log.records
    assert (record.fate, record.reason, record.principal) == (Fate.OK, "", "ada")
    assert (record.model, record.version, record.digest) == ("doubler", "1", DOUBLER.digest)
    assert (record.inputs[0].array.tolist(), record.outputs[0].array.tolist()) == (
        [[3, 3]],
        [[6, 6]],
    )
    assert (record.policy_epoch, record.batch_id, record.batch_size) == (1, 5, 1)
    assert (record.queue_us, record.run_us, record.total_us) == (2100, 200, 7000)
    assert record.time_ns == stand.clock.wall_ns() - 7_000_000
    assert client.call is not None
    assert record.prediction_id == stand.pipeline.prediction_id(client.call)


def test_everything_is_given_back_with_the_answer(stand: Stand) -> None:
    """After its answer a request takes no place, no rows, no bytes."""
    link = stand.connect(MemoryLink())
    stand.send(stand.client(1, rows=3))
    assert (stand.pipeline.idle, stand.pipeline.admission.in_flight_bytes) == (False, 24)

    link.answer()

    assert (stand.pipeline.idle, stand.pipeline.admission.in_flight_bytes) == (True, 0)
    assert (stand.queue().idle, stand.queue().queued_rows) == (True, 0)


def test_callers_of_one_frame_get_their_own_rows(stand: Stand) -> None:
    """Requests of different sizes that travelled together are answered apart."""
    link = stand.connect(MemoryLink())
    clients = [stand.client(1), stand.client(2, rows=2), stand.client(3)]
    stand.send(*clients)

    link.answer()

    assert [client.answers for client in clients] == [[[2, 2]], [[4, 4, 4, 4]], [[6, 6]]]
    assert [record.batch_position for record in stand.log.records] == [0, 1, 3]


def test_record_names_the_batch_in_which_the_first_row_ran(stand: Stand) -> None:
    """A frame that ran in several batches: each call's record names the one of its first row."""
    link = stand.connect(MemoryLink())
    clients = [stand.client(value, rows=2) for value in (1, 2, 3)]
    stand.send(*clients)
    frame = link.frames[0]
    whole = answer_to(frame.batch, doubled, {})
    parts = (BatchPart(3, 70, 16, 13, 10, 20), BatchPart(3, 71, 5, 0, 30, 40))

    frame.answered(replace(whole, parts=parts))

    seen = [(r.batch_id, r.batch_size, r.batch_position, r.run_us) for r in stand.log.records]
    assert seen == [(70, 16, 13, 20), (70, 16, 15, 20), (71, 5, 1, 40)]


# -- refused before admission ----------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Refused:
    """A request that never comes in."""

    error: type[ServingError]
    change: Callable[[Stand, Client], None]
    role: Role = Role.CALLER


REFUSED = {
    "no token": Refused(Unauthenticated, lambda _stand, client: forget_token(client)),
    "no such model": Refused(ModelNotFound, lambda _stand, client: ask(client, "other")),
    "version by a caller": Refused(Forbidden, lambda _stand, client: pin(client, "2")),
    "no such version": Refused(
        ModelNotFound, lambda _stand, client: pin(client, "9"), role=Role.OPERATOR
    ),
    "body": Refused(ShapeInvalid, lambda _stand, client: spoil(client, ShapeInvalid("no"))),
    "log refuses": Refused(LogUnavailable, lambda stand, _client: refuse(stand, LogUnavailable)),
    "disk full": Refused(LogStorageFull, lambda stand, _client: refuse(stand, LogStorageFull)),
}


def forget_token(client: Client) -> None:
    client.authorization = None


def ask(client: Client, model: str) -> None:
    client.model = model


def pin(client: Client, version: str) -> None:
    client.version = version


def spoil(client: Client, error: Exception) -> None:
    client.undecodable = error


def refuse(stand: Stand, error: type[ServingError]) -> None:
    stand.log.refusal = error("no")


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_refused_request_leaves_nothing_behind(stand: Stand, case: Refused) -> None:
    """Refused before admission: the error is raised, there is no record and no place taken."""
    stand.connect(MemoryLink())
    client = stand.client(role=case.role)
    case.change(stand, client)

    with pytest.raises(case.error):
        stand.pipeline.infer(client)

    assert (stand.pipeline.admission.in_flight, stand.log.sequence, stand.log.records) == (0, 0, [])
    assert (client.heard, stand.queue().idle) == (0, True)


def test_body_is_not_read_when_the_log_refuses(stand: Stand) -> None:
    """Refusing is cheap: nothing is decoded for a request that could not be recorded."""
    refuse(stand, LogUnavailable)
    client = stand.client()
    spoil(client, AssertionError("decoded"))

    with pytest.raises(LogUnavailable):
        stand.pipeline.infer(client)


def test_unexpected_failure_of_decoding_gives_the_place_back(stand: Stand) -> None:
    """A bug in a codec costs its request, not the caller's share for ever."""
    for _ in range(3):
        client = stand.client()
        spoil(client, RuntimeError("a bug"))
        with pytest.raises(RuntimeError):
            stand.pipeline.infer(client)

    assert stand.pipeline.admission.in_flight == 0


def test_limits_are_those_of_the_settings(tmp_path: Path) -> None:
    """A caller's own limit and a full queue refuse, each with its error."""
    limits = {"max_in_flight_per_caller": 2, "max_queued_rows": 4}
    tight = a_stand(tmp_path, admission=limits)
    tight.send(tight.client(subject="ada"), tight.client(subject="ada"))
    with pytest.raises(CallerLimitReached):
        tight.send(tight.client(subject="ada"))
    tight.send(tight.client(subject="bob", rows=2))
    with pytest.raises(QueueFull):
        tight.send(tight.client(subject="bob"))

    assert tight.pipeline.admission.in_flight == 3


def test_operator_may_pin_a_version(stand: Stand) -> None:
    """An operator's request goes to the version it names, and is a primary one there."""
    link = stand.connect(MemoryLink(), CANDIDATE)
    client = stand.client(2, role=Role.OPERATOR, version="2")
    stand.send(client)
    link.answer()

    assert (client.answers, stand.log.records[0].version) == ([[4, 4]], "2")
    assert stand.log.records[0].shadow_of == ""


# -- fates of the admitted -------------------------------------------------------------------------


def answers(stand: Stand, client: Client) -> None:
    link = stand.connect(MemoryLink())
    stand.send(client)
    link.answer()


def fails_with(reason: RowFailure) -> Callable[[Stand, Client], None]:
    def happen(stand: Stand, client: Client) -> None:
        link = stand.connect(MemoryLink())
        stand.send(client)
        link.answer({0: reason})

    return happen


def waits_too_long(stand: Stand, client: Client) -> None:
    stand.connect(MemoryLink(allowed_frames=0))
    stand.send(client)
    stand.pass_time(1.01)


def comes_too_late(stand: Stand, client: Client) -> None:
    stand.send(client)
    stand.clock.advance(1.01)
    stand.connect(MemoryLink())


def runs_too_long(stand: Stand, client: Client) -> None:
    link = stand.connect(MemoryLink())
    stand.send(client)
    stand.pass_time(1.01)
    link.answer()


def finds_no_replica(stand: Stand, client: Client) -> None:
    stand.send(client)
    stand.pass_time(1.01)


def loses_its_replicas(stand: Stand, client: Client) -> None:
    stand.send(client)
    for _ in range(MAX_ATTEMPTS):
        link = stand.connect(MemoryLink())
        link.abort()
        stand.queue().links.remove(link)


def leaves_while_waiting(stand: Stand, client: Client) -> None:
    stand.send(client)
    client.go_away()
    client.go_away()


def leaves_while_running(stand: Stand, client: Client) -> None:
    link = stand.connect(MemoryLink())
    stand.send(client)
    client.go_away()
    link.answer()


def is_not_a_number(stand: Stand, client: Client) -> None:
    stand.connect(MemoryLink())
    stand.send(client)


def breaks_its_frame(stand: Stand, client: Client) -> None:
    stand.connect(BrokenLink())
    stand.send(client)


def cannot_be_told(stand: Stand, client: Client) -> None:
    client.unencodable = RuntimeError("a bug")
    answers(stand, client)


@dataclass(frozen=True, slots=True)
class Ending:
    """How an admitted request can end."""

    happen: Callable[[Stand, Client], None]
    fate: Fate
    code: str = ""
    value: float = 1
    silent: bool = False


ENDINGS = {
    "answered": Ending(answers, Fate.OK),
    "model fails": Ending(fails_with(RowFailure.MODEL_ERROR), Fate.MODEL_ERROR, "model_error"),
    "invalid output": Ending(
        fails_with(RowFailure.INVALID_OUTPUT), Fate.INVALID_OUTPUT, "model_output_invalid"
    ),
    "expired in the replica": Ending(
        fails_with(RowFailure.EXPIRED), Fate.TIMEOUT, "deadline_exceeded"
    ),
    "waits too long": Ending(waits_too_long, Fate.TIMEOUT, "deadline_exceeded"),
    "comes too late": Ending(comes_too_late, Fate.TIMEOUT, "deadline_exceeded"),
    "runs too long": Ending(runs_too_long, Fate.TIMEOUT, "deadline_exceeded"),
    "no replica": Ending(finds_no_replica, Fate.REPLICA_LOST, "no_replica"),
    "replicas die": Ending(loses_its_replicas, Fate.REPLICA_LOST, "replica_lost"),
    "leaves while waiting": Ending(leaves_while_waiting, Fate.CLIENT_GONE, silent=True),
    "leaves while running": Ending(leaves_while_running, Fate.CLIENT_GONE, silent=True),
    "not a number": Ending(is_not_a_number, Fate.INVALID_INPUT, "non_finite_input", math.nan),
    "makes no frame": Ending(breaks_its_frame, Fate.INVALID_INPUT, "internal"),
    "cannot be told": Ending(cannot_be_told, Fate.INVALID_OUTPUT, "model_output_invalid"),
}


@pytest.mark.parametrize("ending", ENDINGS.values(), ids=ENDINGS.keys())
def test_admitted_request_has_exactly_one_record_and_one_reply(
    stand: Stand, ending: Ending
) -> None:
    """Whatever becomes of it: one record with its fate and reason, one reply, nothing left over."""
    stand.pipeline.apply(a_snapshot(DOUBLER, epoch=2, shadows=()))
    client = stand.client(ending.value, vetted=False)

    ending.happen(stand, client)
    stand.pass_time(5)

    [record] = stand.log.records
    assert (record.fate, record.reason) == (ending.fate, ending.code)
    assert len(record.outputs) == int(ending.fate is Fate.OK)
    assert record.inputs[0].array.shape == (1, 2)
    assert (client.heard, client.codes) == (
        int(not ending.silent),
        [ending.code] * bool(ending.code),
    )
    assert all(each == record.prediction_id for each in client.prediction_ids)
    assert (stand.pipeline.admission.in_flight, stand.pipeline.admission.in_flight_bytes) == (0, 0)
    assert (stand.queue().queued_rows, stand.queue().idle) == (0, True)
    assert counted(stand, "serving_requests_total", f'fate="{ending.fate.name.lower()}"') == 1


@pytest.mark.parametrize(
    "ending",
    [each for each in ENDINGS.values() if each.code],
    ids=[k for k, e in ENDINGS.items() if e.code],
)
def test_failure_that_cannot_be_recorded_says_so(stand: Stand, ending: Ending) -> None:
    """When the log fails, callers hear that, not a fate that is written nowhere."""
    stand.log.failure = LogUnavailable("the disk is gone")
    client = stand.client(ending.value, vetted=False)

    ending.happen(stand, client)

    assert (client.answers, client.codes) == ([], ["log_unavailable"])
    assert stand.pipeline.admission.in_flight == 0


def test_answer_that_cannot_be_recorded_does_not_leave(stand: Stand) -> None:
    """The log fails after the run: callers are refused, counted and not mirrored (P1)."""
    link = stand.connect(MemoryLink())
    candidate = stand.connect(MemoryLink(), CANDIDATE)
    clients = [stand.client(1), stand.client(2)]
    stand.log.failure = LogStorageFull("the disk is full")
    stand.send(*clients)

    link.answer()
    stand.turns.run()

    assert [(client.answers, client.codes) for client in clients] == [
        ([], ["log_storage_full"])
    ] * 2
    assert (stand.pipeline.admission.in_flight, candidate.sent) == (0, [])
    assert counted(stand, "serving_refusals_total", 'code="log_storage_full"') == 2


def test_guilty_row_fails_only_its_own_caller(stand: Stand) -> None:
    """One failed row fails the whole request it belongs to, and no other (FT-07)."""
    link = stand.connect(MemoryLink())
    clients = [stand.client(1), stand.client(2, rows=3), stand.client(3)]
    stand.send(*clients)

    link.answer({2: RowFailure.MODEL_ERROR})

    assert [client.answers for client in clients] == [[[2, 2]], [], [[6, 6]]]
    assert clients[1].codes == ["model_error"]


def test_client_that_leaves_after_the_result_keeps_its_record(stand: Stand) -> None:
    """What ran and was recorded as answered stays so; hanging up changes nothing any more."""
    link = stand.connect(MemoryLink())
    client = stand.client(1)
    stand.log.held = True
    stand.send(client)
    link.answer()
    client.go_away()
    stand.log.commit()

    assert [record.fate for record in stand.log.records] == [Fate.OK]
    assert stand.pipeline.admission.in_flight == 0


def ran_for(link: MemoryLink, run_us: int) -> None:
    """Answers the oldest frame as if the model had run for so long."""
    frame = link.frames.pop(0)
    rows = frame.batch.rows
    link.outstanding_rows -= rows
    part = BatchPart(rows, 5, rows, 0, 0, run_us)
    frame.answered(replace(answer_to(frame.batch, doubled, {}), parts=(part,)))


def test_request_that_waited_for_too_long_is_recorded_as_shed(stand: Stand) -> None:
    """It was let in and hears 503 without a deadline missed; its record says why."""
    link = stand.connect(MemoryLink(allowed_frames=1))
    clients = [stand.client(value) for value in (1, 2, 3)]
    stand.send(clients[0])
    ran_for(link, 20_000)
    stand.pass_time(0)
    stand.send(clients[1])
    stand.send(clients[2])

    stand.pass_time(0.11)

    shed = stand.log.records[-1]
    assert (clients[2].codes, shed.fate, shed.reason) == (
        ["queue_full"],
        Fate.TIMEOUT,
        "queue_full",
    )
    assert clients[1].heard == 0
    assert counted(stand, "serving_deadline_misses_total") == 0


# -- refused because it would wait in vain ---------------------------------------------------------


@pytest.fixture
def busy(tmp_path: Path) -> Stand:
    """A model of 20 ms a batch of 32, one batch running, no credit left."""
    stand = a_stand(tmp_path, admission={"max_in_flight_per_caller": 1000})
    link = stand.connect(MemoryLink(allowed_frames=1))
    stand.send(stand.client(rows=32))
    ran_for(link, 20_000)
    stand.pass_time(0)
    stand.send(stand.client(rows=32))
    return stand


def test_full_queue_refuses_before_the_body_is_read(busy: Stand) -> None:
    """50 ms of waiting are 80 rows: the next is refused, counted by its raiser, not recorded."""
    for _ in range(80):
        busy.pipeline.infer(busy.client())
    client = busy.client()
    spoil(client, AssertionError("decoded"))
    recorded = len(busy.log.records)

    with pytest.raises(QueueFull):
        busy.pipeline.infer(client)

    assert len(busy.log.records) == recorded
    assert busy.pipeline.admission.in_flight == 81


def test_queue_filled_by_one_caller_is_not_full_for_another(busy: Stand) -> None:
    """What a caller has queued is held against that caller only."""
    for _ in range(80):
        busy.pipeline.infer(busy.client(subject="ada"))

    busy.pipeline.infer(busy.client(subject="bob"))

    with pytest.raises(QueueFull):
        busy.pipeline.infer(busy.client(subject="ada"))
    busy.pass_time(0)
    with pytest.raises(CallerLimitReached, match="share"):
        busy.pipeline.infer(busy.client(subject="ada"))


@pytest.mark.parametrize("where", ["head", "body"])
def test_deadline_that_cannot_be_met_is_refused_at_once(busy: Stand, where: str) -> None:
    """64 rows wait for 40 ms: 30 are not enough, and nobody waits to find out (OV-08)."""
    for _ in range(64):
        busy.pipeline.infer(busy.client())
    client = busy.client(timeout_s=0.03 if where == "body" else None)
    if where == "head":
        client.timeout_s = 0.03
        spoil(client, AssertionError("decoded"))

    with pytest.raises(DeadlineExceeded):
        busy.pipeline.infer(client)

    assert client.call is None


def test_without_a_replica_nobody_is_refused_for_a_wait(busy: Stand) -> None:
    """A request waits for one to come back until its own deadline."""
    busy.queue().links.clear()
    clients = [busy.client() for _ in range(200)]

    busy.send(*clients)

    assert [client.heard for client in clients] == [0] * 200


def test_urgent_request_is_let_in_where_others_are_not(busy: Stand) -> None:
    """Where priorities are used, a caller's own queue is full only for what would wait behind it."""
    busy.send(busy.client(priority=1))
    busy.pass_time(0)
    for _ in range(79):
        busy.pipeline.infer(busy.client())
    with pytest.raises(QueueFull):
        busy.pipeline.infer(busy.client())

    busy.pipeline.infer(busy.client(priority=1))

    with pytest.raises(QueueFull):
        busy.pipeline.infer(busy.client(priority=3))


# -- deadlines -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("asked_s", "given_s"),
    [(None, 1), (0.25, 0.25), (30, 30), (500, 60)],
    ids=["default", "shorter", "longer", "too long"],
)
def test_deadline_is_the_callers_within_bounds(
    stand: Stand, asked_s: float | None, given_s: float
) -> None:
    """Without a word it is the default; what is asked for counts up to the largest permitted."""
    client = stand.client(timeout_s=asked_s)
    stand.send(client)

    stand.pass_time(given_s - 0.001)
    assert client.heard == 0
    stand.pass_time(0.002)
    assert client.heard == 1


def test_row_run_after_its_deadline_is_counted(stand: Stand) -> None:
    """A frame waits for its most patient caller: what runs too late for another is no secret."""
    link = stand.connect(MemoryLink())
    stand.send(stand.client(timeout_s=0.1, rows=2), stand.client(timeout_s=5))
    stand.pass_time(0.5)
    frame = link.frames[0]
    late = replace(
        answer_to(frame.batch, doubled, {}), parts=(BatchPart(3, 5, 3, 0, 400_000, 200),)
    )

    frame.answered(late)

    assert counted(stand, "serving_executed_after_deadline_total") == 2


@pytest.mark.parametrize("queue_us", [50_000, 0], ids=["began in time", "never ran"])
def test_row_begun_in_time_is_not_counted_as_late(stand: Stand, queue_us: int) -> None:
    """Neither a run that began before the deadline nor rows that the replica let expire."""
    link = stand.connect(MemoryLink())
    stand.send(stand.client(timeout_s=0.1))
    stand.pass_time(0.5)
    failures = {} if queue_us else {0: RowFailure.EXPIRED}
    answer = answer_to(link.frames[0].batch, doubled, failures)

    link.frames[0].answered(replace(answer, parts=(BatchPart(1, 5, 1, 0, queue_us, 600_000),)))

    assert counted(stand, "serving_executed_after_deadline_total") == 0


# -- the table -------------------------------------------------------------------------------------


def test_record_names_the_epoch_in_force(stand: Stand) -> None:
    """Each record carries the epoch of the snapshot by which it was routed (SH-10)."""
    link = stand.connect(MemoryLink())
    stand.pipeline.apply(a_snapshot(epoch=7))
    stand.send(stand.client())
    link.answer()

    assert stand.log.records[0].policy_epoch == 7


def test_calls_of_a_version_that_left_have_their_fate(stand: Stand) -> None:
    """A rollout that drops a version loses none of its requests: running ones are answered,
    waiting ones end by their deadline (P12)."""
    link = stand.connect(MemoryLink(allowed_frames=1))
    running, waiting = stand.client(1), stand.client(2)
    stand.send(running)
    stand.send(waiting)
    old = stand.queue()

    stand.pipeline.apply(a_snapshot(CANDIDATE, epoch=2, shadows=()))
    link.answer()
    stand.turns.run()
    link.ready = False
    if link.frames:
        link.answer()
    stand.pass_time(2)

    assert running.answers == [[2, 2]]
    assert waiting.heard == 1
    assert (old.idle, stand.pipeline.admission.in_flight) == (True, 0)


def test_waiting_call_of_a_version_that_left_ends_by_its_deadline(stand: Stand) -> None:
    """Without a replica of the old version its callers are told in time, not left hanging."""
    client = stand.client(1)
    stand.send(client)
    stand.pipeline.apply(a_snapshot(CANDIDATE, epoch=2, shadows=()))

    stand.pass_time(1.01)

    assert (client.codes, stand.pipeline.admission.in_flight) == (["no_replica"], 0)


def test_retries_are_counted(stand: Stand) -> None:
    """Each request sent to another replica is counted once per time."""
    first = stand.connect(MemoryLink())
    stand.send(stand.client(), stand.client())
    first.abort()
    stand.connect(MemoryLink()).answer()

    assert counted(stand, "serving_retries_total", 'role="primary"') == 2


def test_replica_that_answers_without_outputs_is_no_ones_success(stand: Stand) -> None:
    """An answer in which every row failed has no outputs, and nobody is answered from it."""
    link = stand.connect(MemoryLink())
    clients = [stand.client(1), stand.client(2)]
    stand.send(*clients)
    part = BatchPart(2, 5, 2, 0, 1, 1)
    invalid = dict.fromkeys(range(2), RowFailure.INVALID_OUTPUT)

    link.frames[0].answered(BatchAnswer(2, (), (part,), invalid))

    assert [client.codes for client in clients] == [["model_output_invalid"]] * 2
