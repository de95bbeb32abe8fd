"""Rows go together and come back apart: no caller ever gets another's, whatever happens meanwhile."""

import math
from collections import deque
from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from serving.core.batches import BatchPart, RowBatch, RowFailure, TensorBlock
from serving.core.clock import ManualClock
from serving.core.tensors import Array
from serving.errors import ModelFailed
from serving.gateway.batching import VersionQueue
from serving.gateway.calls import Call
from serving.gateway.pipeline import Pipeline
from serving.inference.merging import (
    PendingFrame,
    form_batch,
    merge_inputs,
    run_isolating,
    split_outputs,
)
from tests.gateway.stand import VARIABLE, MemoryLink, Telling, Turns, a_queue, a_request, a_stand
from tests.strategies import arrivals, queue_steps

MAX_FRAME_ROWS = 8

Step = tuple[str, int, int, bool]


# -- in the replica --------------------------------------------------------------------------------


def frames_of(sizes: Sequence[tuple[int, int]]) -> list[PendingFrame]:
    """Frames in which every number is its own, so that none can be taken for another."""
    frames = []
    number = 0
    for rows, columns in sizes:
        count = rows * columns
        array = np.arange(number, number + count, dtype=np.float32).reshape(rows, columns)
        number += count
        block = TensorBlock("FP32", (columns,), [array.tobytes()])
        batch = RowBatch(VARIABLE.digest, rows, (block,))
        frames.append(PendingFrame(batch, (array,), 0, 0, lambda _answer: None))
    return frames


@given(sizes=arrivals, data=st.data())
def test_merged_rows_come_back_to_their_frames(
    sizes: list[tuple[int, int]], data: st.DataObject
) -> None:
    """An echo of any frames, cut and merged anyhow, is each frame's own rows, guilty rows aside."""
    frames = frames_of(sizes)
    every = [float(row[0]) for frame in frames for row in frame.arrays[0]]
    poison = data.draw(st.sets(st.sampled_from(every), max_size=3))

    def echo(inputs: Sequence[Array]) -> list[Array]:
        if poison & set(inputs[0][:, 0].tolist()):
            raise ModelFailed("poison")
        return [inputs[0].copy()]

    waiting = deque(frames)
    number = 0
    while waiting:
        most = data.draw(st.integers(1, 12))
        oldest = waiting[0]
        slices = form_batch(waiting, max_rows=most)
        inputs = merge_inputs(slices)
        assert slices[0].frame is oldest
        assert len(inputs[0]) <= most
        number += 1
        outputs, failures = run_isolating(echo, inputs, version=VARIABLE)
        rows = len(inputs[0])
        split_outputs(slices, outputs, failures, BatchPart(rows, number, rows, 0, 0, 0))

    for frame in frames:
        answer = frame.answer()
        sent = frame.arrays[0]
        guilty = {row for row in range(len(sent)) if float(sent[row, 0]) in poison}
        assert answer.failures == dict.fromkeys(guilty, RowFailure.MODEL_ERROR)
        assert sum(part.rows for part in answer.parts) == len(sent)
        for row in set(range(len(sent))) - guilty:
            assert answer.outputs[0].array(answer.rows)[row].tolist() == sent[row].tolist()


# -- in the gateway --------------------------------------------------------------------------------


class World:
    """A queue, its replicas and its callers, to whom anything happens in any order."""

    def __init__(self, pipeline: Pipeline) -> None:
        self.clock, self.turns, self.telling = ManualClock(), Turns(), Telling()
        self.queue: VersionQueue = a_queue(
            VARIABLE,
            outcomes=self.telling,
            clock=self.clock,
            turns=self.turns,
            max_frame_rows=MAX_FRAME_ROWS,
        )
        self.calls: list[Call] = []
        self._pipeline = pipeline

    def take(self, step: Step) -> None:
        what, number, columns, not_finite = step
        links = [link for link in self.queue.links if isinstance(link, MemoryLink)]
        link = links[number % len(links)] if links else None
        if what == "arrive":
            self.arrive(number, columns, not_finite=not_finite)
        elif what == "leave" and self.calls:
            call = self.calls[number % len(self.calls)]
            if not call.done:
                self.telling.leave(call)
        elif what == "turn":
            self.turns.run()
        elif what == "open":
            self.queue.links.append(MemoryLink(lambda array: array))
            self.queue.wake()
        elif what == "pass time":
            self.clock.advance(number / 10)
            self.queue.sweep(self.clock.monotonic_ns())
        elif link is not None:
            self._happen_to(link, what)

    def _happen_to(self, link: MemoryLink, what: str) -> None:
        if what == "lose":
            self.queue.links.remove(link)
            link.abort()
        elif link.frames and what == "answer":
            link.answer()
            self.queue.wake()
        elif link.frames:
            link.hand_back()

    def arrive(self, rows: int, columns: int, *, not_finite: bool) -> None:
        value = math.nan if not_finite else float(len(self.calls))
        request = a_request(value, rows=rows, columns=columns, vetted=False)
        call = Call(self._pipeline, self.queue, request, b"ada")
        call.arrived_ns = call.since_ns = self.clock.monotonic_ns()
        call.deadline_ns = call.arrived_ns + 2_000_000_000
        self.calls.append(call)
        self.queue.append(call)

    def settle(self) -> None:
        """A good replica comes, and everything that still can be answered is."""
        for _ in range(len(self.calls) + 1):
            self.take(("open", 0, 1, False))
            self.turns.run()
            for link in list(self.queue.links):
                while isinstance(link, MemoryLink) and link.frames:
                    link.answer()
        self.queue.sweep(self.clock.monotonic_ns())

    def check(self) -> None:
        """What must be true at any time."""
        waiting = sum(call.rows for call in self.calls if not call.done and call.frame is None)
        assert self.queue.queued_rows == waiting
        for link in self.queue.links:
            assert isinstance(link, MemoryLink)
            for sent, frame in zip(link.sent[-len(link.frames) :], link.frames, strict=False):
                assert sent.rows <= MAX_FRAME_ROWS or len(frame.calls) == 1

    def fates(self, call: Call) -> list[str]:
        told = [what for what, who in self.telling.told if who is call]
        return [what for what in told if what != "retried"]


@pytest.fixture(scope="module")
def pipeline(tmp_path_factory: pytest.TempPathFactory) -> Pipeline:
    return a_stand(tmp_path_factory.mktemp("stand")).pipeline


@settings(max_examples=300)
@given(steps=queue_steps)
def test_every_call_has_one_fate_and_its_own_rows(pipeline: Pipeline, steps: list[Step]) -> None:
    """Whatever comes, leaves, breaks or expires in any order, nothing is lost, doubled or mixed."""
    world = World(pipeline)
    for step in steps:
        world.take(step)
        world.check()
    world.settle()

    assert [len(world.fates(call)) for call in world.calls] == [1] * len(world.calls)
    assert (world.queue.queued_rows, world.queue.idle) == (0, True)
    for frame, answer in world.telling.answers:
        for call in frame.calls:
            rows = answer.outputs[0].array(answer.rows)[call.first_row :][: call.rows]
            assert rows.tobytes() == call.inputs[0] or call.frame is not frame
