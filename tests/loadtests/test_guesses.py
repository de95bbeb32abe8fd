import asyncio
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from loadtests.children import LOOPBACK
from loadtests.cpu import open_account
from loadtests.goals import GOALS, judge
from loadtests.guesses import Flood, bad_token, checks
from loadtests.payloads import json_payload
from loadtests.targets import Target
from serving.errors import Unauthenticated
from tests.places import InProcess, wait_until


def test_a_check_of_a_known_token_is_judged(tmp_path: Path) -> None:
    """Both costs are there, and every goal of the case has its figure."""
    figures = checks(tmp_path, tokens=100)

    assert 0 < figures.values["us per cached check"] < figures.values["us for a new token"]
    assert all(each.goal.figure in figures.values for each in judge([figures]))
    assert {goal.case for goal in GOALS} >= {"checks", "guesses"}


async def test_a_flood_is_refused_and_each_guess_is_another(in_process: InProcess) -> None:
    """Bad tokens differ, the product refuses them all, each on its connection, and the flood ends."""
    place = in_process.place
    good = place.authorization()
    payload = json_payload(np.ones(2, np.float32), name="x")
    account = open_account("guesses")
    target = Target(f"{place.url}/v2/models/doubler/infer", good, payload, account)
    authenticator = in_process.worker.authenticator
    tokens = [bad_token(good["Authorization"]) for _ in range(3)]

    def flood() -> Counter[int]:
        with Flood(target, connections=3) as running:
            wait_until(lambda: running.statuses.total() > 30)
        return running.statuses

    statuses = await asyncio.to_thread(flood)
    account.close()

    assert target.host == LOOPBACK
    assert set(statuses) == {401}
    assert len(set(tokens)) == 3
    for token in tokens:
        with pytest.raises(Unauthenticated):
            authenticator.authenticate(token.encode(), in_process.worker.now_s())
