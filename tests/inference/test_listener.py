import stat
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from serving.core.batches import SpanLink
from serving.core.clock import ManualClock
from serving.core.tensors import Array
from serving.errors import ModelFailed, ReplicaLost
from serving.inference.frames import Kind, Refusal
from tests.inference.peers import Peer, batch_of, eventually, values_of
from tests.inference.replicas import (
    POISON,
    VARIABLE,
    VERSION,
    World,
    descriptors,
    of_at_most,
    poisonable,
    running,
    stopping,
)
from tests.inference.runners import FunctionRunner, HeldRunner, double

# -- serving ---------------------------------------------------------------------------------------


def test_connection_begins_with_the_digest(world: World) -> None:
    """Each gateway learns first what runs here."""
    world.listen(FunctionRunner(VERSION))

    assert world.connect().greeting == (Kind.HELLO, VERSION.digest)


def test_socket_is_for_this_user_only(world: World) -> None:
    """Nobody else on the machine can send frames."""
    world.listen(FunctionRunner(VERSION))

    assert stat.S_IMODE(world.path.stat().st_mode) == 0o600


def test_every_gateway_gets_its_own_answers(world: World) -> None:
    """Frames of two gateways with the same id are two frames."""
    world.listen(FunctionRunner(VERSION))
    one, other = world.connect(), world.connect()
    one.ask(1, 1, 2)
    other.ask(1, 30)

    assert (one.answers(), other.answers()) == ({1: [2, 4]}, {1: [60]})


def test_frames_that_arrive_during_a_run_are_the_next_batch(world: World, held: HeldRunner) -> None:
    """Natural batching: the busier the model, the fuller its batches; no timer."""
    world.listen(held)
    one, other = world.connect(), world.connect()
    one.ask(1, 1)
    running(held)
    one.ask(2, 2)
    other.ask(3, 3, 4)

    held.gate.open()
    answers = one.answers(2) | other.answers()

    assert answers == {1: [2], 2: [4], 3: [6, 8]}
    assert [sorted(batch) for batch in held.rows] == [[1], [2, 3, 4]]


def test_answers_of_a_batch_leave_together(world: World, held: HeldRunner) -> None:
    """A gateway is woken once for all of its frames that ran together."""
    world.listen(held)
    peer = world.connect()
    peer.ask(1, 1)
    running(held)
    for frame_id, value in ((2, 2), (3, 3), (4, 4)):
        peer.ask(frame_id, value)
    held.gate.open()
    assert peer.answers() == {1: [2]}

    first = peer.answers()

    assert peer.has_received == 2
    assert first | peer.answers(2) == {2: [4], 3: [6], 4: [8]}


def test_batches_keep_to_the_size_that_was_chosen(world: World) -> None:
    """A frame larger than the best batch is cut, and its answer says how."""
    runner = FunctionRunner(of_at_most(4))
    world.listen(runner)
    peer = world.connect()
    peer.ask(1, *range(10))
    _, answer = peer.answer()

    assert values_of(answer) == [2 * value for value in range(10)]
    assert [(part.rows, part.batch_rows, part.position) for part in answer.parts] == [
        (4, 4, 0), (4, 4, 0), (2, 2, 0),
    ]  # fmt: skip
    assert len({part.batch_id for part in answer.parts}) == 3


def test_parts_say_where_in_the_batch_rows_stood(world: World, held: HeldRunner) -> None:
    """The record of a request names its batch, its size and its place in it."""
    world.listen(held)
    peer = world.connect()
    peer.ask(1, 1)
    running(held)
    peer.ask(2, 2)
    peer.ask(3, 3, 4)

    held.gate.open()
    parts = [peer.answer()[1].parts[0] for _ in range(3)]

    assert [(part.batch_rows, part.position, part.rows) for part in parts] == [
        (1, 0, 1), (3, 0, 1), (3, 1, 2),
    ]  # fmt: skip
    assert parts[1].batch_id == parts[2].batch_id == parts[0].batch_id + 1


def test_shapes_run_apart(world: World) -> None:
    """Frames whose dimensions differ are never in one batch."""
    runner = HeldRunner(VARIABLE)
    runner.gate.close()
    world.listen(runner)
    peer = world.connect(VARIABLE)
    peer.send(1, batch_of(VARIABLE, 1, columns=2))
    running(runner)
    for frame_id, columns in ((2, 3), (3, 2), (4, 3)):
        peer.send(frame_id, batch_of(VARIABLE, frame_id, columns=columns))

    runner.gate.open()

    assert peer.answers(4) == {1: [2], 2: [4], 3: [6], 4: [8]}
    assert [batch.shape for batch in runner.batches] == [(1, 2), (2, 3), (1, 2)]


# -- failures --------------------------------------------------------------------------------------


def test_one_guilty_row_of_sixteen_fails_alone(world: World, held: HeldRunner) -> None:
    """Fifteen callers get their answers, for at most eight runs more (FT-07)."""
    world.listen(held)
    peer = world.connect()
    peer.ask(100, 0)
    running(held)
    for value in range(1, 17):
        peer.ask(value, POISON if value == 11 else value)

    held.gate.open()
    answers = peer.answers(17)

    assert answers.pop(11) == ["MODEL_ERROR"]
    assert answers.pop(100) == [0]
    assert answers == {value: [2 * value] for value in range(1, 17) if value != 11}
    assert len(held.batches) - 2 <= 8


@pytest.mark.parametrize(
    "output",
    [
        lambda x: [x[:-1]],
        lambda x: [np.concatenate([x, x])],
        lambda x: [x.astype(np.float64)],
        lambda x: [x[:, :1]],
        lambda x: [],
        lambda x: [x, x],
    ],
    ids=["too few rows", "too many rows", "other datatype", "other shape", "none", "two"],
)
def test_answer_of_another_form_is_nobodys(
    world: World, held: HeldRunner, output: Callable[[Array], list[Array]]
) -> None:
    """The model's answer fails closed for everybody in the batch; the next batch is fine (FT-13)."""
    world.listen(held)
    peer = world.connect()
    peer.ask(1, 1)
    running(held)
    peer.ask(2, 2)
    peer.ask(3, 3, 4)
    held.function = lambda inputs: output(inputs[0]) if len(inputs[0]) == 3 else double(inputs)

    held.gate.open()
    answers = peer.answers(3)
    peer.ask(4, 4)

    assert answers == {1: [2], 2: ["INVALID_OUTPUT"], 3: ["INVALID_OUTPUT"] * 2}
    assert peer.answers() == {4: [8]}


def test_runner_that_fails_unexpectedly_does_not_end_the_loop(world: World) -> None:
    """An exception of a kind that no runner should raise fails its rows and nothing else (FT-19)."""

    def surprise(inputs: Sequence[Array]) -> list[Array]:
        if np.any(inputs[0] == POISON):
            raise ZeroDivisionError
        return double(inputs)

    world.listen(FunctionRunner(VERSION, surprise))
    peer = world.connect()
    peer.ask(1, 1, POISON, 3)

    assert peer.answers() == {1: [2, "MODEL_ERROR", 6]}


# -- deadlines -------------------------------------------------------------------------------------


@pytest.fixture
def clock() -> ManualClock:
    clock = ManualClock()
    clock.advance(1000)
    return clock


def now_us(clock: ManualClock) -> int:
    return clock.monotonic_ns() // 1000


def test_frame_whose_time_passed_is_not_run(
    world: World, held: HeldRunner, clock: ManualClock
) -> None:
    """What expired while the model was busy is answered so, also if it lay in the socket (P10)."""
    listener = world.listen(held, clock=clock, run_timeout_s=1000)
    peer = world.connect()
    peer.ask(1, 1)
    running(held)
    for frame_id, budget_us in ((2, 100_000), (3, 300_000), (4, 0)):
        batch = batch_of(VERSION, frame_id, budget_us=budget_us, sent_us=now_us(clock))
        peer.send(frame_id, batch)
    clock.advance(0.2)

    held.gate.open()

    assert peer.answers(4) == {1: [2], 2: ["EXPIRED"], 3: [6], 4: [8]}
    assert [sorted(batch) for batch in held.rows] == [[1], [3, 4]]
    eventually(lambda: listener.statistics().expired_rows == 1)


def test_wait_in_the_socket_counts_as_queueing(
    world: World, held: HeldRunner, clock: ManualClock
) -> None:
    """The answer says how long its rows waited, from sending to running."""
    world.listen(held, clock=clock, run_timeout_s=1000)
    peer = world.connect()
    peer.ask(1, 1)
    running(held)
    peer.send(2, batch_of(VERSION, 2, sent_us=now_us(clock)))
    clock.advance(0.25)

    held.gate.open()
    peer.answer()
    [part] = peer.answer()[1].parts

    assert part.queue_us == 250_000


def test_time_of_another_clock_is_not_believed(
    world: World, held: HeldRunner, clock: ManualClock
) -> None:
    """A sender whose clock is not ours gets its time from when the frame was read."""
    world.listen(held, clock=clock, run_timeout_s=1000)
    peer = world.connect()
    held.gate.open()
    for frame_id, sent_us in ((1, now_us(clock) + 1_000_000), (2, 1)):
        peer.send(frame_id, batch_of(VERSION, 1, budget_us=1000, sent_us=sent_us))
        assert peer.answers() == {frame_id: [2]}


def test_rest_of_an_expired_frame_is_not_run(world: World, clock: ManualClock) -> None:
    """A large frame whose time passes between two of its batches stops there."""
    runner = HeldRunner(of_at_most(2))
    runner.gate.close()
    listener = world.listen(runner, clock=clock, run_timeout_s=1000)
    peer = world.connect()
    peer.send(1, batch_of(VERSION, *range(6), budget_us=100_000, sent_us=now_us(clock)))
    running(runner)
    clock.advance(0.2)

    runner.gate.open()

    assert peer.answers() == {1: ["EXPIRED"] * 6}
    assert runner.rows == [[0, 1]]
    eventually(lambda: listener.statistics().expired_rows == 4)


def test_run_that_lasts_too_long_is_terminated(world: World, held: HeldRunner) -> None:
    """Its rows fail together, without a second try, and the replica goes on (FT-09)."""
    world.listen(held, run_timeout_s=0.02)
    peer = world.connect()
    peer.ask(1, 1, 2, 3, 4)
    answers = peer.answers()
    peer.ask(2, 5)

    assert answers == {1: ["EXPIRED"] * 4}
    assert peer.answers() == {2: [10]}
    assert (held.rows, held.terminations > 0) == ([[1, 2, 3, 4], [5]], True)


def test_run_that_ends_in_spite_of_its_termination_counts(world: World) -> None:
    """An answer that came after all is used, and the next failure is not taken for a time-out."""
    runner = HeldRunner(VERSION, poisonable, stubborn=True)
    runner.gate.close()
    world.listen(runner, run_timeout_s=0.02)
    peer = world.connect()
    peer.ask(1, 1)
    eventually(lambda: runner.terminations > 0)
    runner.gate.open()
    first = peer.answers()
    peer.ask(2, 2, POISON)

    assert (first, peer.answers()) == ({1: [2]}, {2: [4, "MODEL_ERROR"]})


# -- stopping --------------------------------------------------------------------------------------


def test_stop_answers_what_came_in_and_hands_back_the_rest(world: World, held: HeldRunner) -> None:
    """Rows that run are answered; rows still in a socket go back, to be sent elsewhere."""
    listener = world.listen(held)
    peer = world.connect()
    peer.ask(1, 1)
    running(held)
    peer.ask(2, 2)
    thread = stopping(listener, 10)
    eventually(lambda: listener.stopping)

    held.gate.open()
    thread.join()

    assert peer.answers() == {1: [2]}
    assert peer.refusal() == (2, Refusal.DRAINING)
    assert (peer.hung_up(), world.path.exists()) == (True, False)


def test_stop_runs_what_was_taken_from_the_sockets(world: World) -> None:
    """Frames that were read before the stop are answered, in as many batches as they need."""
    runner = HeldRunner(of_at_most(2))
    runner.gate.close()
    listener = world.listen(runner)
    peer = world.connect()
    peer.ask(1, 1, 2, 3, 4, 5)
    running(runner)
    thread = stopping(listener, 10)
    eventually(lambda: listener.stopping)

    runner.gate.open()
    thread.join()

    assert peer.answers() == {1: [2, 4, 6, 8, 10]}


def test_stop_gives_a_slow_reader_its_answers(world: World) -> None:
    """An answer larger than the socket's buffer is not cut off by a clean stop."""
    listener = world.listen(FunctionRunner(VARIABLE))
    peer = world.connect(VARIABLE)
    peer.send(1, batch_of(VARIABLE, 1, columns=1024 * 1024))
    eventually(lambda: listener.statistics().batches == 1)
    thread = stopping(listener, 10)
    eventually(lambda: listener.stopping)
    _, answer = peer.answer()
    thread.join()

    assert answer.outputs[0].row_shape == (1024 * 1024,)
    assert peer.hung_up()


def test_stop_gives_up_after_its_time(world: World, held: HeldRunner) -> None:
    """A run that does not end is terminated, and its rows are lost with the connection, not failed."""
    listener = world.listen(held)
    peer = world.connect()
    peer.ask(1, 1)
    running(held)

    listener.stop(drain_s=0.02)

    assert (peer.hung_up(), held.terminations, len(held.batches)) == (True, 1, 1)


def test_stop_is_harmless_before_the_start_and_twice(world: World) -> None:
    """Whoever failed to start a replica can stop it all the same."""
    listener = world.build(FunctionRunner(VERSION))
    listener.stop(drain_s=1)
    listener.start()
    listener.stop(drain_s=1)
    listener.stop(drain_s=1)

    assert not world.path.exists()


def test_starting_and_stopping_leaves_nothing_behind(world: World) -> None:
    """Descriptors and threads are as before after thirty lives."""
    before = (descriptors(), threading.active_count())
    for _ in range(30):
        listener = world.build(FunctionRunner(VERSION))
        listener.start()
        with Peer(world.path, VERSION) as peer:
            peer.ask(1, 1)
            peer.answers()
        listener.stop(drain_s=5)

    assert (descriptors(), threading.active_count()) == before


def test_socket_of_a_dead_replica_is_replaced(world: World) -> None:
    """What a killed process left at the path does not keep its successor from starting."""
    world.path.touch()
    world.listen(FunctionRunner(VERSION))

    assert world.connect().greeting[0] is Kind.HELLO


def test_path_that_cannot_be_bound_raises(world: World) -> None:
    """A path longer than a socket's address may be is an OSError, and nothing stays open."""
    world.path = world.path.with_name("x" * 120)
    before = descriptors()

    with pytest.raises(OSError, match="too long"):
        world.build(FunctionRunner(VERSION)).start()
    assert descriptors() == before


# -- health and figures ----------------------------------------------------------------------------


def test_check_passes_when_a_row_is_answered(world: World) -> None:
    """The probe is one real row through the same queue."""
    runner = FunctionRunner(VERSION)
    world.listen(runner).check()

    assert runner.rows == [[0]]


def test_check_finds_a_stuck_loop(world: World, held: HeldRunner) -> None:
    """A replica whose run never ends is not healthy, though its socket is open."""
    listener = world.listen(held)

    with pytest.raises(ReplicaLost, match="no progress"):
        listener.check(wait_s=0.05)


def test_check_finds_a_failing_model(world: World) -> None:
    """A loop that answers, but with failures, is not healthy."""

    def fail(_inputs: Sequence[Array]) -> list[Array]:
        raise ModelFailed("always")

    with pytest.raises(ReplicaLost, match="sample row"):
        world.listen(FunctionRunner(VERSION, fail)).check()


def test_check_finds_an_ended_loop(world: World) -> None:
    """If the loop ends in a way nobody foresaw, gateways are hung up on and the check fails."""

    class Broken:
        def record(self, **_facts: object) -> None:
            raise RuntimeError("a bug")

    listener = world.listen(FunctionRunner(VERSION), tracing=Broken())
    peer = world.connect()
    link = SpanLink(0, b"t" * 16, b"s" * 8)
    peer.send(1, batch_of(VERSION, 1, links=(link,)))
    assert peer.answers() == {1: [2]}

    assert peer.hung_up()
    with pytest.raises(ReplicaLost, match="no progress"):
        listener.check(wait_s=0.02)


def test_statistics_count_what_happened(world: World) -> None:
    """Batches, rows, failures and sizes since the start."""
    listener = world.listen(FunctionRunner(of_at_most(4), poisonable))
    peer = world.connect()
    peer.ask(1, 1, 2, 3)
    peer.answers()
    peer.ask(2, 1, POISON)
    peer.answers()
    eventually(lambda: listener.statistics().batches == 2)

    told = listener.statistics()

    assert (told.rows, told.failures, told.expired_rows, told.queued_rows) == (5, 1, 0, 0)
    assert {size: count for size, count in told.batch_sizes.items() if count} == {2: 1, 4: 1}
    assert (told.best_batch_size, told.run_seconds > 0, told.p95_queue_ms >= 0) == (4, True, True)


def test_busy_fraction_is_the_share_of_recent_time(world: World) -> None:
    """Four seconds of which one was spent running are a quarter."""
    clock = ManualClock()

    def take_a_second(inputs: Sequence[Array]) -> list[Array]:
        clock.advance(1)
        return double(inputs)

    class Loitering:
        """Time passes between run and tick, on the loop's own thread: from another, it would pass
        before or behind a tick of an idle loop."""

        def record(self, **_facts: object) -> None:
            clock.advance(3)

    runner = FunctionRunner(VERSION, take_a_second)
    listener = world.listen(runner, clock=clock, run_timeout_s=1e6, tracing=Loitering())
    link = SpanLink(0, b"t" * 16, b"s" * 8)
    world.connect().send(1, batch_of(VERSION, 1, links=(link,)))

    eventually(lambda: listener.statistics().busy_fraction == 0.25)


class Spans:
    """Where spans of batches are kept; fits `listener.BatchTracing`."""

    def __init__(self) -> None:
        self.spans: list[tuple[int, bool, list[tuple[bytes, bytes]]]] = []

    def record(
        self,
        *,
        batch_id: int,
        rows: int,
        start_ns: int,
        end_ns: int,
        links: Sequence[tuple[bytes, bytes]],
        failed: bool,
    ) -> None:
        assert 0 < start_ns <= end_ns
        assert batch_id
        self.spans.append((rows, failed, list(links)))


def test_batches_with_sampled_requests_or_failures_have_spans(world: World) -> None:
    """A span per such batch, linked to the sampled requests whose first row ran in it."""
    spans = Spans()
    world.listen(FunctionRunner(of_at_most(2), poisonable), tracing=spans)
    peer = world.connect()
    links = (SpanLink(0, b"t" * 16, b"s" * 8), SpanLink(2, b"u" * 16, b"v" * 8))
    peer.send(1, batch_of(VERSION, 1, 2, 3, links=links))
    peer.answer()
    peer.ask(2, 4)
    peer.answer()
    peer.ask(3, POISON)
    peer.answer()
    eventually(lambda: len(spans.spans) == 3)

    assert spans.spans == [
        (2, False, [(b"t" * 16, b"s" * 8)]),
        (1, False, [(b"u" * 16, b"v" * 8)]),
        (1, True, []),
    ]


# -- warming up ------------------------------------------------------------------------------------


def costing(clock: ManualClock, cost_ms: Callable[[int], float]) -> FunctionRunner:
    """A runner for which time passes by the number of rows."""

    def run(inputs: Sequence[Array]) -> list[Array]:
        clock.advance(cost_ms(len(inputs[0])) / 1000)
        return double(inputs)

    return FunctionRunner(of_at_most(64), run)


def test_warm_up_learns_the_best_size(world: World, clock: ManualClock) -> None:
    """Cheap up to sixteen rows, dear beyond: sixteen is learned."""
    listener = world.build(costing(clock, lambda rows: 2 if rows <= 16 else rows), clock=clock)
    listener.warm_up()

    assert listener.statistics().best_batch_size == 16


def test_warm_up_ends_where_the_objective_does(world: World, clock: ManualClock) -> None:
    """Sizes beyond the latency objective are not even timed."""
    runner = costing(clock, lambda rows: 8.0 * rows)
    world.build(runner, clock=clock).warm_up()

    assert max(len(batch) for batch in runner.batches) == 4


def test_warm_up_refuses_a_model_that_fails(world: World) -> None:
    """A replica whose first row fails does not start."""

    def fail(_inputs: Sequence[Array]) -> list[Array]:
        raise ModelFailed("always")

    with pytest.raises(ModelFailed):
        world.build(FunctionRunner(VERSION, fail)).warm_up()


def test_size_at_which_batches_fail_is_not_chosen(world: World, clock: ManualClock) -> None:
    """Where there is no room for more than two rows, bisecting makes larger batches dear (FT-10)."""

    def only_two(inputs: Sequence[Array]) -> list[Array]:
        clock.advance(0.001)
        if len(inputs[0]) > 2:
            raise ModelFailed("no room")
        return double(inputs)

    listener = world.build(FunctionRunner(VERSION, only_two), clock=clock)
    listener.warm_up()

    assert listener.statistics().best_batch_size == 2


def test_many_gateways_at_once_get_their_own_rows(world: World) -> None:
    """Eight gateways, each with frames of its own numbers: nobody gets another's (P14, BT-01)."""
    world.listen(FunctionRunner(of_at_most(16), poisonable))

    def talk(number: int) -> bool:
        with Peer(world.path, VERSION) as peer:
            for frame_id in range(25):
                first = float(1000 * number + 10 * frame_id)
                peer.ask(frame_id, first, POISON if frame_id % 10 == 3 else first + 1, first + 2)
                second = "MODEL_ERROR" if frame_id % 10 == 3 else 2 * first + 2
                if peer.answers() != {frame_id: [2 * first, second, 2 * first + 4]}:
                    return False
        return True

    with ThreadPoolExecutor(8) as pool:
        assert all(pool.map(talk, range(8)))
