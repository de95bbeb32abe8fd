"""Batching (BT) and the faults of models (FT) of RELIABILITY, through the real HTTP edge.

`BT_REQUESTS` in the environment says how many requests the long cases make; the figure of the
catalogue is 1000000.
"""

import asyncio
import os
from collections import Counter
from collections.abc import AsyncIterator, Sequence
from pathlib import Path
from typing import Final

import numpy as np
import pytest
from onnx import helper

from serving.core.predictions import Fate
from serving.core.tensors import Array
from serving.engine_settings import InferenceSettings
from serving.errors import ModelFailed, ReplicaLost
from serving.inference.session import OnnxSession
from serving.registry.folder import DEFAULT_MODELS_DIR, load_catalogue
from tests.hostile.callers import Caller, Reply
from tests.hostile.harness import Harness, Model, Served
from tests.inference import graphs
from tests.inference.runners import double
from tests.places import eventually
from tests.releases import bundle_of

REQUESTS: Final = int(os.environ.get("BT_REQUESTS", "1200"))
CALLERS: Final = 12
POISON: Final = np.float32(-666)
RUN_TIMEOUT_S: Final = 0.3


@pytest.fixture
async def harness(tmp_path: Path) -> AsyncIterator[Harness]:
    """Nothing is refused for overload: how rows are batched is what is tested here."""
    harness = Harness(
        tmp_path,
        inference={"run_timeout_s": RUN_TIMEOUT_S},
        admission={"max_queue_wait_s": 60, "default_deadline_s": 20},
    )
    try:
        await harness.start()
        yield harness
    finally:
        await harness.aclose()


def poisonable(inputs: Sequence[Array]) -> list[Array]:
    if np.any(inputs[0] == POISON):
        raise ModelFailed("poison")
    return [inputs[0].copy()]


def numbers(serial: int, generator: np.random.Generator) -> Array:
    """One to three rows of one to six columns that no other request has."""
    shape = tuple(generator.integers(1, (4, 7)))
    return (np.arange(np.prod(shape)).reshape(shape) + 100 * serial).astype(np.float32)


async def exchange(harness: Harness, *, cancelled: float, poisoned: float) -> Counter[str]:
    """Many requests of unique content at once; each must get its own answer. Counts what became.

    cancelled: the share of requests whose client hangs up at once; poisoned: of those that fail.
    """
    serials = iter(range(REQUESTS))
    found: Counter[str] = Counter()

    async def talk(index: int) -> None:
        generator = np.random.default_rng(index)
        caller = await harness.caller()
        for serial in serials:
            x = numbers(serial, generator)
            fate = generator.random()
            if fate < cancelled:
                async with Caller(harness.place.place) as leaving:
                    leaving.send("echo", x=x)
                    await asyncio.sleep(0)
                found["cancelled"] += 1
                continue
            if fate < cancelled + poisoned:
                x[0, 0] = POISON
            reply = await caller.ask("echo", x=x)
            if x[0, 0] == POISON:
                assert (reply.status, reply.code) == (500, "model_error")
                found["failed"] += 1
                continue
            assert reply.status == 200, reply.code
            assert np.array_equal(reply.outputs[0], x), "a caller got another answer than its own"
            found["answered"] += 1

    await asyncio.gather(*(talk(index) for index in range(CALLERS)))
    return found


async def test_bt_01_every_caller_gets_its_own_rows(harness: Harness) -> None:
    """Unique payloads of random shapes, many at once: no answer is anybody else's."""
    node = helper.make_node("Identity", ["x"], ["y"])
    content = graphs.whole(node, shape=("n", "c"), result=("n", "c"), names=("x", "y"))
    await harness.serve(echo=Served(content=content))

    found = await exchange(harness, cancelled=0, poisoned=0)

    assert found == {"answered": REQUESTS}


async def test_bt_02_cancels_and_failing_rows_change_nothing(harness: Harness) -> None:
    """Among callers that hang up and rows that fail, all others get their own answers."""
    await harness.serve(echo=Served(poisonable))

    found = await exchange(harness, cancelled=0.05, poisoned=0.01)

    assert found.total() == REQUESTS
    assert found["answered"] > 0.9 * REQUESTS


async def test_ft_18_a_fifth_of_all_callers_hang_up(harness: Harness) -> None:
    """With one request in five cancelled the others are answered, and no place inside stays taken."""
    await harness.serve(echo=Served(poisonable))

    found = await exchange(harness, cancelled=0.2, poisoned=0)

    assert found.total() == REQUESTS
    await eventually(lambda: harness.place.worker.pipeline.idle)
    assert (await (await harness.caller()).ask("echo", x=np.ones((1, 1), "<f4"))).status == 200


@pytest.mark.parametrize(
    ("model", "tolerance"), [("census-employment", 1e-6), ("image-orientation", 1e-5)]
)
def test_bt_03_alone_and_in_batches(model: str, tolerance: float) -> None:
    """Rows answered one by one and in batches of 2, 3, 8 and 32 agree within the tolerance."""
    entry = load_catalogue(DEFAULT_MODELS_DIR).entry(model, "1")
    session = OnnxSession.load(
        entry.version, bundle_of(entry.artifact), settings=InferenceSettings(device="cpu")
    )
    declared = entry.version.inputs[0]
    rows = np.random.default_rng(1).integers(0, 9, (32, *declared.row_shape)).astype(declared.dtype)
    alone = [session.run([rows[i : i + 1]])[-1][0] for i in range(32)]

    for size in (2, 3, 8, 32):
        for start in range(0, 32 - size + 1, size):
            together = session.run([rows[start : start + size]])[-1]
            wanted = np.stack(alone[start : start + size])
            assert np.allclose(together, wanted, rtol=0, atol=tolerance)


async def test_bt_04_what_differs_is_kept_apart(harness: Harness) -> None:
    """Other lengths, ranks, tenants, deadlines and priorities at once: each its own, none starves."""
    await harness.serve(
        flat=Served(double), deep=Served(double, columns=(-1, 2)), other=Served(poisonable)
    )

    async def talk(caller: Caller, index: int) -> list[Reply]:
        replies = []
        for step in range(20):
            length = 1 + (index + step) % 5
            x = np.full((1 + step % 3, length), 10 * index + step, np.float32)
            parameters = {"timeout": 10_000_000 + index, "priority": 1 + step % 2}
            deep = np.stack([x, x + 1], axis=-1)
            one = await caller.ask("flat", parameters=parameters, x=x)
            two = await caller.ask("deep", x=deep)
            assert np.array_equal(one.outputs[0], 2 * x)
            assert np.array_equal(two.outputs[0], 2 * deep)
            replies += [one, two]
        return replies

    callers = await harness.callers(CALLERS)
    replies = await asyncio.gather(*(talk(each, index) for index, each in enumerate(callers)))

    assert Counter(reply.status for each in replies for reply in each) == {200: 40 * CALLERS}
    found = [record for record in harness.place.place.records() if record.model == "flat"]
    assert len(found) == 20 * CALLERS
    # Counted and not timed: by how many that came later was each one overtaken?
    overtaken = [
        sum(late.sequence > each.sequence and late.batch_id < each.batch_id for late in found)
        for each in found
    ]
    assert max(overtaken) < 3 * CALLERS, "somebody was left behind"


async def test_bt_05_padding_is_in_no_answer_and_no_record(harness: Harness) -> None:
    """Rows padded to a bucket come back, and are recorded, in the length in which they were sent."""
    padding = {"buckets": [4, 8], "inputs": {"input": 5, "mask": 0}, "outputs": ["output"]}
    batching = {"max_batch_size": 8, "padding": padding}
    await harness.serve(
        shares=Served(
            content=graphs.shares(),
            batching=batching,
            inputs=("input", "mask"),
            outputs=("output",),
        )
    )
    lengths = (1, 2, 3, 4, 5, 7, 8, 9)

    async def ask(caller: Caller, length: int) -> Reply:
        x = np.arange(1, length + 1, dtype=np.float32)[np.newaxis]
        return await caller.ask("shares", input=x, mask=np.ones_like(x))

    callers = await harness.callers(len(lengths))
    replies = await asyncio.gather(*map(ask, callers, lengths))

    for length, reply in zip(lengths, replies, strict=True):
        x = np.arange(1, length + 1, dtype=np.float32)[np.newaxis]
        assert np.allclose(reply.outputs[0], x / x.sum(), rtol=1e-6)
        record = harness.place.place.record(reply.prediction_id)
        assert record is not None
        assert [tensor.array.shape for tensor in record.inputs] == [x.shape] * 2
        assert np.array_equal(record.outputs[0].array, reply.outputs[0])


async def test_bt_06_a_batch_never_exceeds_its_limit(harness: Harness) -> None:
    """At the limit, one over, ten times over: the model sees no more rows than it permits."""
    await harness.serve(echo=Served(double, batching={"max_batch_size": 4}))
    caller = await harness.caller()

    for rows in (4, 5, 40):
        x = np.arange(rows, dtype=np.float32)[:, np.newaxis]
        assert np.array_equal((await caller.ask("echo", x=x)).outputs[0], 2 * x)

    assert max(len(batch) for batch in harness.sessions["echo"].batches) == 4


async def test_bt_06_a_row_above_every_limit_is_refused(harness: Harness) -> None:
    """A single row with more elements than any request may have is 400, before memory is taken."""
    await harness.serve(echo=Served(double))
    tensor = {"name": "x", "shape": [1, 2**26 + 1], "datatype": "FP32", "data": [1.0]}

    async with harness.place.place.client() as client:
        answer = await client.post("/v2/models/echo/infer", json={"inputs": [tensor]})

    assert answer.status_code == 400


async def test_bt_07_nobody_waits_for_company(harness: Harness) -> None:
    """At a low rate every request is a batch of its own and waits for nothing: there is no timer."""
    await harness.serve(echo=Served(double))
    caller = await harness.caller()

    replies = [await caller.ask("echo", x=np.ones((1, 1), "<f4")) for _ in range(40)]
    records = [harness.place.place.record(reply.prediction_id) for reply in replies]

    assert {record.batch_size for record in records if record} == {1}
    assert sorted(record.queue_us for record in records if record)[20] < 5000


async def test_ft_07_only_the_failing_row_fails(harness: Harness) -> None:
    """In a batch of many callers one row raises: its caller is told, all others are answered."""
    await harness.serve(echo=Served(poisonable))
    session = harness.sessions["echo"]
    callers = await harness.callers(8)
    values = [1.0, 2.0, 3.0, float(POISON), 5.0, 6.0, 7.0, 8.0]
    session.batches.clear()
    session.gate.close()
    asked = [
        asyncio.create_task(caller.ask("echo", x=np.full((1, 2), value, np.float32)))
        for caller, value in zip(callers, values, strict=True)
    ]
    await eventually(lambda: harness.place.worker.pipeline.admission.in_flight == len(values))

    session.gate.open()
    replies = await asyncio.gather(*asked)

    assert max(len(batch) for batch in session.batches) > 1, "they never met"
    assert [reply.status for reply in replies] == [200, 200, 200, 500, 200, 200, 200, 200]
    assert replies[3].code == "model_error"


async def test_ft_08_a_broken_model_stops_being_ready_and_others_go_on(harness: Harness) -> None:
    """A model that fails on everything is not ready, by itself, until it answers again."""
    broken = False

    def breakable(inputs: Sequence[Array]) -> list[Array]:
        if broken:
            raise ModelFailed("always")
        return double(inputs)

    await harness.serve(broken=Served(breakable), sound=Served(double))
    caller, other = await harness.callers(2)
    x = np.ones((1, 1), np.float32)
    broken = True

    replies = [await caller.ask("broken", x=x) for _ in range(5)]
    await eventually(lambda: harness.shelf.listeners["broken@1"].statistics().failing)
    late = await caller.ask("broken", parameters={"timeout": 50_000}, x=x)
    sound = await other.ask("sound", x=x)

    assert {(reply.status, reply.code) for reply in replies} == {(500, "model_error")}
    assert (late.status, sound.status) == (503, 200)
    assert (await harness.is_ready("broken"), await harness.is_ready("sound")) == (False, True)
    with pytest.raises(ReplicaLost):
        harness.shelf.listeners["broken@1"].check()
    broken = False
    reply = await caller.ask("broken", parameters={"timeout": 10_000_000}, x=x)
    assert (reply.status, await harness.is_ready("broken")) == (200, True)


async def test_ft_08_poison_does_not_stop_a_sound_model(harness: Harness) -> None:
    """A caller that sends nothing but failing rows cannot make the model unready for others."""
    await harness.serve(echo=Served(poisonable))
    poisoner, other = await harness.callers(2)

    for _ in range(20):
        assert (await poisoner.ask("echo", x=np.full((1, 1), POISON))).code == "model_error"

    assert (await other.ask("echo", x=np.ones((1, 1), "<f4"))).status == 200
    assert not harness.shelf.listeners["echo@1"].statistics().failing


async def test_ft_09_a_hanging_model_is_stopped_and_replaced(harness: Harness) -> None:
    """A run that hangs ends at its time limit with 504; after some of them the replica says so."""
    await harness.serve(hangs=Served(double), sound=Served(double))
    session, listener = harness.sessions["hangs"], harness.shelf.listeners["hangs@1"]
    caller, other = await harness.callers(2)
    x = np.ones((1, 1), np.float32)

    for _ in range(3):
        session.gate.close()
        asked = asyncio.create_task(caller.ask("hangs", x=x))
        await eventually(session.gate.entered.is_set)
        assert (await other.ask("sound", x=x)).status == 200
        reply = await asked
        assert (reply.status, reply.code) == (504, "deadline_exceeded")
    with pytest.raises(ReplicaLost, match="do not end"):
        listener.check()

    assert (await caller.ask("hangs", x=x)).status == 200, "the pool was drained"


@pytest.mark.parametrize(
    "lie",
    [
        lambda inputs: [double(inputs)[0][:-1]],
        lambda inputs: [np.concatenate([double(inputs)[0]] * 2)],
        lambda inputs: [double(inputs)[0].astype(np.float64)],
        lambda inputs: [double(inputs)[0][..., np.newaxis]],
        lambda inputs: double(inputs) * 2,
        lambda _inputs: [],
    ],
    ids=["too-few-rows", "too-many-rows", "datatype", "rank", "two-outputs", "no-output"],
)
async def test_ft_13_an_answer_of_another_form_is_nobodys(harness: Harness, lie: Model) -> None:
    """Rows, datatype or outputs that are not those declared: 500, and the next answer is right."""
    lying = False
    await harness.serve(echo=Served(lambda inputs: lie(inputs) if lying else double(inputs)))
    caller = await harness.caller()
    x = np.arange(6, dtype=np.float32).reshape(3, 2)
    lying = True
    reply = await caller.ask("echo", x=x)
    lying = False

    after = await caller.ask("echo", x=x)

    assert (reply.status, reply.code) == (500, "model_output_invalid")
    assert np.array_equal(after.outputs[0], 2 * x)
    record = harness.place.place.record(reply.prediction_id)
    assert record is not None
    assert (record.fate, record.outputs) == (Fate.INVALID_OUTPUT, ())


async def test_ft_13_a_late_answer_is_nobodys(harness: Harness) -> None:
    """What comes after its deadline is thrown away; the next caller gets its own."""
    await harness.serve(echo=Served(double))
    session = harness.sessions["echo"]
    early, late = await harness.callers(2)
    session.gate.close()
    asked = asyncio.create_task(
        early.ask("echo", parameters={"timeout": 60_000}, x=np.full((1, 1), 7, np.float32))
    )
    reply = await asked
    session.gate.open()

    after = await late.ask("echo", x=np.full((1, 1), 9, np.float32))

    assert (reply.status, reply.code) == (504, "deadline_exceeded")
    assert after.outputs[0].tolist() == [[18]]


async def test_ft_19_what_cannot_be_put_together_costs_its_batch_only(harness: Harness) -> None:
    """An answer that cannot be put into a frame is 500 for its callers, and the batcher lives on."""
    odd = False

    def function(inputs: Sequence[Array]) -> list[Array]:
        return [np.full(inputs[0].shape, 7 if odd else b"seven", object)]

    await harness.serve(echo=Served(function, answers="BYTES"))
    caller = await harness.caller()
    x = np.ones((1, 1), np.float32)
    odd = True
    reply = await caller.ask("echo", x=x)
    odd = False

    after = await caller.ask("echo", x=x)

    assert (reply.status, after.status) == (500, 200)
