import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import pytest

from serving.core.batches import BatchAnswer, BatchPart, RowFailure
from serving.core.clock import ManualClock
from serving.core.models import ModelVersion
from serving.gateway.batching import MAX_ATTEMPTS, VersionQueue
from serving.gateway.calls import Call
from serving.telemetry.traces import TraceContext
from tests.gateway.stand import (
    DOUBLER,
    VARIABLE,
    BrokenLink,
    MemoryLink,
    Stand,
    Telling,
    Turns,
    a_queue,
    a_request,
    answer_to,
    doubled,
)

NAN = math.nan


@dataclass(frozen=True, slots=True)
class Bench:
    """A queue with nothing but a clock, the turns of a loop, and somebody who is told."""

    queue: VersionQueue
    clock: ManualClock
    turns: Turns
    telling: Telling
    stand: Stand

    def call(
        self,
        value: float = 1,
        *,
        rows: int = 1,
        columns: int = 2,
        vetted: bool = True,
        timeout_s: float = 1,
    ) -> Call:
        """A call that waits in the queue."""
        request = a_request(value, rows=rows, columns=columns, vetted=vetted)
        call = Call(self.stand.pipeline, self.queue, request, b"ada")
        call.arrived_ns = call.since_ns = self.clock.monotonic_ns()
        call.deadline_ns = call.arrived_ns + round(timeout_s * 1e9)
        self.queue.append(call)
        return call

    def calls(self, *values: float) -> list[Call]:
        return [self.call(value) for value in values]

    def link(self, *, allowed_frames: int = 2) -> MemoryLink:
        link = MemoryLink(allowed_frames=allowed_frames)
        self.queue.links.append(link)
        return link

    def told(self, call: Call) -> list[str]:
        return [what for what, who in self.telling.told if who is call]


MakeBench = Callable[..., Bench]


@pytest.fixture
def make_bench(stand: Stand) -> MakeBench:
    """Makes a bench for a version; further arguments are settings of the channel."""

    def make(version: ModelVersion = DOUBLER, **channel: int) -> Bench:
        clock, turns, telling = ManualClock(), Turns(), Telling()
        queue = a_queue(version, outcomes=telling, clock=clock, turns=turns, **channel)
        return Bench(queue, clock, turns, telling, stand)

    return make


@pytest.fixture
def bench(make_bench: MakeBench) -> Bench:
    return make_bench()


def values(link: MemoryLink) -> list[list[float]]:
    """The first column of each frame that the link was given."""
    return [[float(row[0]) for row in sent.tensors[0].array(sent.rows)] for sent in link.sent]


# -- natural batching ------------------------------------------------------------------------------


def test_calls_of_one_turn_share_a_frame(bench: Bench) -> None:
    """What arrives in one turn of the loop leaves together, in order of arrival."""
    link = bench.link()
    bench.calls(1, 2, 3)
    assert link.sent == []

    bench.turns.run()

    assert values(link) == [[1, 2, 3]]


def test_lone_call_leaves_at_once(bench: Bench) -> None:
    """An idle system answers at once: no timer, no company needed."""
    link = bench.link()
    bench.call(1)

    bench.turns.run()

    assert (values(link), bench.clock.monotonic_ns()) == ([[1]], 0)


def test_calls_gather_while_all_credits_are_spent(bench: Bench) -> None:
    """Busy replicas fill frames: what waits is the next frame when a credit comes back."""
    link = bench.link(allowed_frames=2)
    for value in (1, 2, 3, 4, 5):
        bench.call(value)
        bench.turns.run()
    assert (values(link), bench.queue.queued_rows) == ([[1], [2]], 3)

    link.answer()
    bench.queue.wake()
    bench.turns.run()

    assert (values(link)[2:], bench.queue.queued_rows) == ([[3, 4, 5]], 0)


def test_frame_never_exceeds_its_rows(make_bench: MakeBench) -> None:
    """A call that does not fit is the first of the next frame; order is kept."""
    bench = make_bench(max_frame_rows=4)
    link = bench.link()
    for value, rows in ((1, 3), (2, 2), (3, 1)):
        bench.call(value, rows=rows)

    bench.turns.run()

    assert values(link) == [[1, 1, 1], [2, 2, 3]]


def test_frame_never_exceeds_its_bytes(make_bench: MakeBench) -> None:
    """Two FP32 columns are 8 bytes a row: two rows fit into 20 bytes."""
    bench = make_bench(max_frame_bytes=20)
    link = bench.link()
    bench.calls(1, 2, 3)

    bench.turns.run()

    assert values(link) == [[1, 2], [3]]


def test_larger_call_travels_alone(make_bench: MakeBench) -> None:
    """A request above the frame's size is still one frame, without company."""
    bench = make_bench(max_frame_rows=4)
    link = bench.link(allowed_frames=3)
    bench.call(1)
    bench.call(2, rows=9)
    bench.call(3)

    bench.turns.run()

    assert [sent.rows for sent in link.sent] == [1, 9, 1]


def test_only_rows_of_one_shape_share_a_frame(make_bench: MakeBench) -> None:
    """Where dimensions vary, a frame ends where the shape changes."""
    bench = make_bench(VARIABLE)
    link = bench.link(allowed_frames=3)
    for value, columns in ((1, 2), (2, 2), (3, 5), (4, 2)):
        bench.call(value, columns=columns)

    bench.turns.run()

    assert [sent.tensors[0].row_shape for sent in link.sent] == [(2,), (5,), (2,)]
    assert values(link) == [[1, 2], [3], [4]]


def test_rows_that_are_not_batched_travel_alone(make_bench: MakeBench) -> None:
    """Their answers may have different shapes, and a frame's answer has one."""
    bench = make_bench(version=replace(DOUBLER, batched=False))
    link = bench.link()
    bench.calls(1, 2, 3)

    bench.turns.run()

    assert [frame.batch.rows for frame in link.frames] == [1, 1]


def test_replica_with_the_fewest_outstanding_rows_is_chosen(bench: Bench) -> None:
    """Load goes where least is waiting, by rows and not by frames."""
    first, second = bench.link(), bench.link()
    bench.call(1, rows=5)
    bench.turns.run()
    bench.call(2)
    bench.turns.run()

    bench.call(3)
    bench.turns.run()

    assert (values(first), values(second)) == ([[1] * 5], [[2], [3]])


def test_replica_without_a_credit_is_left_out(bench: Bench) -> None:
    """Few outstanding rows do not help a replica that may take no frame."""
    full, free = bench.link(allowed_frames=0), bench.link()

    bench.call(1)
    bench.turns.run()

    assert (full.sent, values(free)) == ([], [[1]])


def test_frame_names_the_first_deadline_and_when_it_was_sent(bench: Bench) -> None:
    """The replica runs a frame only while everybody in it can use an answer."""
    link = bench.link()
    bench.clock.advance(10)
    bench.call(1, timeout_s=0.5)
    bench.call(2, timeout_s=2)

    bench.turns.run()

    assert (link.sent[0].budget_us, link.sent[0].sent_us) == (500_000, 10_000_000)


def test_frame_links_its_sampled_calls(bench: Bench) -> None:
    """The trace of a sampled call is named with its first row; others have no link."""
    link = bench.link()
    calls = bench.calls(1, 2, 3)
    calls[1].trace = TraceContext(b"t" * 16, b"", b"s" * 8, sampled=True)
    calls[2].trace = TraceContext(b"u" * 16, b"p" * 8, b"", sampled=False)

    bench.turns.run()

    assert [(each.row, each.trace_id) for each in link.sent[0].links] == [(1, b"t" * 16)]


# -- calls that left -------------------------------------------------------------------------------


def test_call_whose_client_left_is_not_sent(bench: Bench) -> None:
    """The place of a call that is gone is free at once, and it never reaches a replica."""
    link = bench.link()
    calls = bench.calls(1, 2, 3)
    bench.telling.leave(calls[1])
    assert bench.queue.queued_rows == 2

    bench.turns.run()

    assert values(link) == [[1, 3]]


def test_queue_of_departed_calls_sends_nothing(bench: Bench) -> None:
    """When everybody left, there is no frame, and the queue is idle."""
    link = bench.link()
    for call in bench.calls(1, 2):
        bench.telling.leave(call)

    bench.turns.run()

    assert (link.sent, bench.queue.idle, bench.queue.queued_rows) == ([], True, 0)


def test_deadline_ends_a_waiting_call(bench: Bench) -> None:
    """The sweep tells who waited too long, once, and forgets them."""
    early, late = bench.call(1, timeout_s=1), bench.call(2, timeout_s=3)
    bench.clock.advance(1.01)
    for _ in range(2):
        bench.queue.sweep(bench.clock.monotonic_ns())
    link = bench.link()
    bench.queue.wake()
    bench.turns.run()

    assert (bench.told(early), bench.told(late)) == (["expired"], [])
    assert values(link) == [[2]]


def test_deadline_ends_a_running_call_and_leaves_its_neighbours(bench: Bench) -> None:
    """A call in a frame is told on time; the others of the frame get their answer."""
    link = bench.link()
    early, late = bench.call(1, timeout_s=1), bench.call(2, timeout_s=3)
    bench.turns.run()
    bench.clock.advance(1.01)
    bench.queue.sweep(bench.clock.monotonic_ns())

    link.answer()

    assert (bench.told(early), bench.told(late)) == (["expired"], ["answered"])


def test_sweep_forgets_departed_calls_without_replicas(bench: Bench) -> None:
    """Nothing is kept of callers that came and went while no replica was up."""
    for call in bench.calls(*range(100)):
        bench.telling.leave(call)

    bench.queue.sweep(0)

    assert (bench.queue.idle, bench.queue.queued_rows) == (True, 0)


def test_sweep_looks_at_every_replica(bench: Bench) -> None:
    """Each link is told the time, so that a silent one can be dropped."""
    links = [bench.link(), bench.link()]

    bench.queue.sweep(17)

    assert [link.checks for link in links] == [[17], [17]]


# -- calls that came too late ----------------------------------------------------------------------


def run_for(link: MemoryLink, run_us: int) -> None:
    """Answers the oldest frame as if the model had run for so long."""
    frame = link.frames.pop(0)
    link.outstanding_rows -= frame.batch.rows
    answer = answer_to(frame.batch, doubled, {})
    rows = frame.batch.rows
    frame.answered(replace(answer, parts=(BatchPart(rows, 5, rows, 0, 0, run_us),)))


def expire(link: MemoryLink) -> None:
    """Hands the oldest frame back, as a replica does that comes to it too late."""
    frame = link.frames.pop(0)
    rows = frame.batch.rows
    link.outstanding_rows -= rows
    failures = dict.fromkeys(range(rows), RowFailure.EXPIRED)
    frame.answered(BatchAnswer(rows, (), (BatchPart(rows, 0, 0, 0, 0, 0),), failures))


def learn(bench: Bench, link: MemoryLink, *, run_us: int) -> None:
    """A call is answered, and the queue knows how long a run takes."""
    bench.call(0)
    bench.turns.run()
    run_for(link, run_us)
    bench.queue.sweep(bench.clock.monotonic_ns())


def test_call_that_expired_is_not_sent(bench: Bench) -> None:
    """When the frame forms its time is over: it is told so, and its neighbour travels."""
    early, late = bench.call(1, timeout_s=1), bench.call(2, timeout_s=3)
    bench.clock.advance(2)
    link = bench.link()
    bench.turns.run()

    assert (bench.told(early), bench.told(late), values(link)) == (["hopeless"], [], [[2]])
    assert bench.queue.queued_rows == 0


def test_call_that_cannot_be_answered_in_time_is_not_sent(bench: Bench) -> None:
    """A run takes 20 ms: whoever has 10 left is told now, and wastes no place in a batch."""
    link = bench.link()
    learn(bench, link, run_us=20_000)
    early, late = bench.call(1, timeout_s=0.01), bench.call(2, timeout_s=0.03)

    bench.turns.run()

    assert (bench.told(early), bench.told(late), values(link)) == (["hopeless"], [], [[0], [2]])


def test_frame_that_came_too_late_costs_only_those_without_time(bench: Bench) -> None:
    """The replica did not run it: who has time left travels again, before all others."""
    link = bench.link(allowed_frames=1)
    early, late = bench.call(1, timeout_s=1), bench.call(2, timeout_s=3)
    bench.turns.run()
    after = bench.call(3, timeout_s=3)
    bench.clock.advance(1.5)

    expire(link)
    bench.turns.run()

    assert values(link) == [[1, 2], [2, 3]]
    assert [bench.told(call) for call in (early, late, after)] == [["answered"], [], []]
    assert bench.telling.answers[0][1].failures[0] is RowFailure.EXPIRED


def test_call_that_waits_for_too_long_is_shed(bench: Bench) -> None:
    """A wait of a tenth of a second with a replica up ends with a refusal, not with a late answer."""
    link = bench.link(allowed_frames=1)
    learn(bench, link, run_us=20_000)
    running = bench.call(1)
    bench.turns.run()
    waiting = bench.call(2)

    bench.clock.advance(0.09)
    bench.queue.sweep(bench.clock.monotonic_ns())
    assert bench.told(waiting) == []
    bench.clock.advance(0.02)
    bench.queue.sweep(bench.clock.monotonic_ns())

    assert (bench.told(running), bench.told(waiting)) == ([], ["shed"])
    assert bench.queue.queued_rows == 0


def test_wait_without_a_replica_is_not_counted(bench: Bench) -> None:
    """Who waited for a replica to come back is served, not shed at once."""
    link = bench.link(allowed_frames=1)
    learn(bench, link, run_us=20_000)
    link.abort()
    bench.queue.links.remove(link)
    calls = [bench.call(value) for value in (1, 2)]
    for _ in range(5):
        bench.clock.advance(0.1)
        bench.queue.sweep(bench.clock.monotonic_ns())
    fresh = bench.link(allowed_frames=0)
    bench.clock.advance(0.05)
    bench.queue.sweep(bench.clock.monotonic_ns())

    assert [bench.told(call) for call in calls] == [[], []]
    assert fresh.sent == []


def test_copies_have_all_the_time_they_were_given(bench: Bench) -> None:
    """Nobody waits for a copy: it is not shed, it ends by its own deadline."""
    link = bench.link(allowed_frames=1)
    learn(bench, link, run_us=20_000)
    bench.call(1)
    bench.turns.run()
    copy = bench.call(2, timeout_s=5)
    copy.shadow_of = 1

    bench.clock.advance(1)
    bench.queue.sweep(bench.clock.monotonic_ns())

    assert bench.told(copy) == []


def test_before_the_first_answer_nobody_is_shed(bench: Bench) -> None:
    """A model may take its time for its first run."""
    bench.link(allowed_frames=0)
    call = bench.call(1, timeout_s=10)

    bench.clock.advance(5)
    bench.queue.sweep(bench.clock.monotonic_ns())

    assert bench.told(call) == []


def test_oldest_wait_is_told(bench: Bench) -> None:
    """For those who look at the queue from outside."""
    assert bench.queue.oldest_s == 0
    bench.call(1)
    bench.clock.advance(0.25)
    bench.call(2)

    assert bench.queue.oldest_s == pytest.approx(0.25)


# -- replicas that left ----------------------------------------------------------------------------


def test_lost_frame_goes_back_to_the_front_in_order(bench: Bench) -> None:
    """What was lost is older than what waits, and leaves before it, to another replica."""
    lost, other = bench.link(allowed_frames=1), bench.link(allowed_frames=0)
    bench.calls(1, 2)
    bench.turns.run()
    bench.calls(3)
    bench.turns.run()
    assert bench.queue.queued_rows == 1

    lost.abort()
    fresh = bench.link()
    bench.turns.run()

    assert (values(lost), other.sent, values(fresh)) == ([[1, 2]], [], [[1, 2, 3]])
    assert bench.queue.queued_rows == 0


def test_lost_frame_is_retried_without_those_who_left(bench: Bench) -> None:
    """A caller that went away while its frame was lost is not sent again."""
    link = bench.link(allowed_frames=1)
    calls = bench.calls(1, 2, 3)
    bench.turns.run()
    bench.telling.leave(calls[1])

    link.abort()
    fresh = bench.link()
    bench.turns.run()

    assert values(fresh) == [[1, 3]]
    assert [bench.told(call) for call in calls] == [["retried"], ["gone"], ["retried"]]


def test_call_that_loses_its_replicas_is_failed(bench: Bench) -> None:
    """After MAX_ATTEMPTS dead replicas a call is not given a further one: it may be the cause."""
    call = bench.call(1)
    for _ in range(MAX_ATTEMPTS):
        link = bench.link()
        bench.queue.wake()
        bench.turns.run()
        link.abort()
        bench.queue.links.remove(link)
    last = bench.link()
    bench.turns.run()

    assert bench.told(call) == ["retried"] * (MAX_ATTEMPTS - 1) + ["exhausted"]
    assert (last.sent, bench.queue.queued_rows) == ([], 0)


def test_frame_handed_back_costs_no_attempt(bench: Bench) -> None:
    """Replicas that shut down took nothing: however many do, the call goes to the next one."""
    call = bench.call(1)
    for _ in range(MAX_ATTEMPTS + 2):
        draining = bench.link()
        bench.queue.wake()
        bench.turns.run()
        draining.hand_back()
    last = bench.link()
    bench.turns.run()
    last.answer()

    assert (values(last), bench.told(call)) == ([[1]], ["answered"])


def test_deadline_counts_from_arrival_across_replicas(bench: Bench) -> None:
    """A retry gets what is left of the time, not a new measure of it."""
    first = bench.link(allowed_frames=1)
    bench.call(1, timeout_s=1)
    bench.turns.run()
    bench.clock.advance(0.75)
    first.abort()
    second = bench.link()
    bench.turns.run()

    assert second.sent[0].budget_us == 250_000


# -- inputs that are not numbers -------------------------------------------------------------------


def test_not_finite_rows_fail_alone(bench: Bench) -> None:
    """A NaN or an infinity is its caller's fault; the neighbours are sent without it."""
    link = bench.link()
    calls = [bench.call(value, vetted=False) for value in (1, NAN, 3, math.inf, 5)]

    bench.turns.run()

    assert values(link) == [[1, 3, 5]]
    assert [bench.told(call) for call in calls] == [[], ["not finite"], [], ["not finite"], []]
    assert bench.queue.queued_rows == 0


def test_any_number_of_not_finite_calls_is_survived(make_bench: MakeBench) -> None:
    """A flood of NaN, each a frame of its own, is refused one by one."""
    bench = make_bench(max_frame_rows=1)
    link = bench.link()
    guilty = [bench.call(NAN, vetted=False) for _ in range(3000)]
    good = bench.call(1, vetted=False)

    bench.turns.run()

    assert all(bench.told(call) == ["not finite"] for call in guilty)
    assert (values(link), bench.told(good), bench.queue.queued_rows) == ([[1]], [], 0)


def test_models_may_accept_what_is_not_finite(make_bench: MakeBench) -> None:
    """A version that declares it takes NaN gets NaN."""
    version = replace(DOUBLER, finite_inputs=False)
    bench = make_bench(version)
    link = bench.link()
    bench.call(NAN, vetted=False)

    bench.turns.run()

    assert np.isnan(values(link)).all()


# -- what must not happen --------------------------------------------------------------------------


def test_frame_that_cannot_be_sent_costs_only_its_own_calls(bench: Bench) -> None:
    """An unexpected failure ends the calls of one frame; the queue goes on (FT-19)."""
    link = BrokenLink()
    bench.queue.links.append(link)
    broken = bench.call(1)
    bench.turns.run()
    later = bench.call(2)
    bench.turns.run()
    link.answer()

    assert (bench.told(broken), bench.told(later)) == (["broken"], ["answered"])
    assert (bench.queue.queued_rows, bench.queue.idle) == (0, True)


def test_call_that_makes_no_frame_costs_only_itself(bench: Bench) -> None:
    """Inputs that do not fit the version are a bug elsewhere, and never one of the queue."""
    link = bench.link()
    broken = bench.call(1)
    broken.inputs = (b"", b"")
    bench.turns.run()
    later = bench.call(2)
    bench.turns.run()

    assert (bench.told(broken), bench.told(later), values(link)) == (["broken"], [], [[2]])
    assert bench.queue.queued_rows == 0
