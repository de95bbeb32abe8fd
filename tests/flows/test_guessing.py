"""Who tries many credentials waits for the answers, on either wire; those who are known do not."""

import asyncio
from pathlib import Path

import pytest

from tests.edge.grpc.wire import caller, rows
from tests.places import InProcess, eventually_async

INFER = "/v2/models/doubler/infer"
ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}

PER_S, BUDGET = 2, 10
"""Refusals of one source that are answered at once: so many a second, and after a quiet time."""
GUESSERS, LONGEST_S = 10, 1.0
SWEEP_S = 0.25
"""How much earlier than it should an answer may come."""


def most(took_s: float) -> float:
    """Answers in that time: the budget, one a second for each who guesses, and the last ones."""
    return BUDGET + GUESSERS * (took_s / (LONGEST_S - SWEEP_S) + 1)


@pytest.fixture
async def guarded(tmp_path: Path) -> InProcess:
    """Two refusals a second of one source are answered at once: no machine is too slow to guess more."""
    limits = {"refusals_per_s": PER_S, "max_refusal_delay_s": LONGEST_S}
    product = InProcess(tmp_path, http=limits, grpc=limits)
    await product.start()
    return product


async def test_jw_30_a_flood_of_bad_tokens_is_slowed_down(guarded: InProcess) -> None:
    """Ten connections guess for two seconds: their budget and one answer a second each, while a
    caller from the same address has every answer."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    end_s = began_s + 2.0
    refused = 0

    async def guess(number: int) -> None:
        nonlocal refused
        async with guarded.place.client() as client:
            client.headers["Authorization"] = f"Bearer a.b.c{number}"
            while loop.time() < end_s:
                answer = await client.post(INFER, json=ROW)
                assert (answer.status_code, answer.json()["code"]) == (401, "unauthenticated")
                refused += 1

    async def work() -> list[int]:
        async with guarded.place.client("known") as client:
            return [(await client.post(INFER, json=ROW)).status_code for _ in range(50)]

    statuses, *_ = await asyncio.gather(work(), *[guess(number) for number in range(GUESSERS)])
    took_s = loop.time() - began_s
    held = await guarded.place.metric("serving_refusals_held_total", port="http")
    await guarded.aclose()

    assert statuses == [200] * 50
    assert BUDGET <= refused <= most(took_s)
    assert held > 0


async def test_who_leaves_while_the_answer_waits_disturbs_nothing(guarded: InProcess) -> None:
    """A guess whose answer is held back is given up; its connection is gone, others are served."""
    async with guarded.place.client() as client:
        client.headers["Authorization"] = "Bearer a.b.c"
        for _ in range(BUDGET):
            await client.post(INFER, json=ROW)
        guesses = [asyncio.create_task(client.post(INFER, json=ROW)) for _ in range(BUDGET)]
        await eventually_async(lambda: guarded.place.metric("serving_refusals_held_total"))
        given_up = [each.cancel() for each in guesses]
        await asyncio.gather(*guesses, return_exceptions=True)
    async with guarded.place.client("known") as client:
        answer = await client.post(INFER, json=ROW)
    await guarded.aclose()

    assert any(given_up)
    assert answer.status_code == 200


async def test_jw_30_a_flood_over_grpc_is_slowed_down(guarded: InProcess) -> None:
    """Ten guess on one gRPC connection for two seconds: their budget and one answer a second each,
    while a caller from the same address has every answer; what was held back is counted."""
    loop = asyncio.get_running_loop()
    began_s = loop.time()
    end_s = began_s + 2.0
    refused = 0

    async with caller(guarded) as known, caller(guarded) as guesser:

        async def guess(number: int) -> None:
            nonlocal refused
            metadata = (("authorization", f"Bearer a.b.c{number}"),)
            while loop.time() < end_s:
                answer = await guesser.refused(rows(1), metadata=metadata)
                assert answer.status == "UNAUTHENTICATED"
                refused += 1

        async def work() -> None:
            for _ in range(50):
                assert (await known.infer(rows(1))).outputs

        await asyncio.gather(work(), *[guess(number) for number in range(GUESSERS)])
        took_s = loop.time() - began_s
        held = await guarded.place.metric("serving_refusals_held_total", port="grpc")
    await guarded.aclose()

    assert BUDGET <= refused <= most(took_s)
    assert held > 0
    assert BUDGET <= refused - held <= BUDGET + PER_S * took_s + 1
