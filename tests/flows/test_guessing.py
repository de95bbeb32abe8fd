"""Who tries many credentials waits for the answers, on either wire; those who are known do not."""

import asyncio
from pathlib import Path

import pytest

from tests.edge.grpc_wire import caller, rows
from tests.places import InProcess

INFER = "/v2/models/doubler/infer"
ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}


@pytest.fixture
async def guarded(tmp_path: Path) -> InProcess:
    """Ten refusals a second of one source are answered at once."""
    limits = {"refusals_per_s": 10.0, "max_refusal_delay_s": 1.0}
    product = InProcess(tmp_path, http=limits, grpc=limits)
    await product.start()
    return product


async def test_jw_30_a_flood_of_bad_tokens_is_slowed_down(guarded: InProcess) -> None:
    """Ten connections guess for two seconds: their budget and one answer a second each, while a
    caller from the same address has every answer."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + 2.0
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

    statuses, *_ = await asyncio.gather(work(), *[guess(number) for number in range(10)])
    await guarded.aclose()

    assert statuses == [200] * 50
    assert 50 <= refused <= 10 * (5 + 3) + 10


async def test_who_leaves_while_the_answer_waits_disturbs_nothing(guarded: InProcess) -> None:
    """A guess whose answer is held back is given up; its connection is gone, others are served."""
    async with guarded.place.client() as client:
        client.headers["Authorization"] = "Bearer a.b.c"
        for _ in range(52):
            await client.post(INFER, json=ROW)
        with pytest.raises(TimeoutError):
            await asyncio.wait_for(client.post(INFER, json=ROW), 0.05)
    async with guarded.place.client("known") as client:
        answer = await client.post(INFER, json=ROW)
    await guarded.aclose()

    assert answer.status_code == 200


async def test_jw_30_a_flood_over_grpc_is_slowed_down(guarded: InProcess) -> None:
    """Ten guess on one gRPC connection for two seconds: their budget and one answer a second each,
    while a caller from the same address has every answer; what was held back is counted."""
    loop = asyncio.get_running_loop()
    end_s = loop.time() + 2.0
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

        await asyncio.gather(work(), *[guess(number) for number in range(10)])
        held = await guarded.place.metric("serving_refusals_held_total", port="grpc")
    await guarded.aclose()

    assert 50 <= refused <= 10 * (5 + 3) + 10
    # The budget grows while it is spent.
    assert 50 <= refused - held <= 60
