"""What is measured stays bounded and right, whatever callers name and however often it is read."""

import contextlib
import os
import random
import re
import signal
import string
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from threading import Event

import httpx
import pytest
from prometheus_client.parser import text_string_to_metric_families

from serving.app.descendants import descendants
from tests.instances import Instance
from tests.places import InProcess, a_row, wait_until

NAMES = 500
"""Of 100,000: each kind of name takes the same way, and none of them is remembered."""
SCRAPERS, PAUSE_S = 4, 0.4
"""To read a scrape takes this process as long as to make it takes the product."""


def series(text: str) -> set[str]:
    """Names and labels of all samples."""
    return {line.rpartition(" ")[0] for line in text.splitlines() if not line.startswith("#")}


async def test_ob_04_names_that_callers_make_up_are_no_time_series(in_process: InProcess) -> None:
    """Models, versions, paths, hosts, user agents and request ids: none of them is a label, and none adds
    a series; what appears by and by is about versions that are served."""
    place, random_names = in_process.place, random.Random(4)  # noqa: S311 - names
    render = in_process.worker.metrics.families.render
    made: list[str] = []

    def a_name() -> str:
        made.append("".join(random_names.choices(string.ascii_lowercase, k=12)))
        return made[-1]

    async with place.client() as client:

        async def ask() -> None:
            body = a_row(1) | {"id": a_name()}
            headers = {"User-Agent": a_name(), "Serving-Sticky-Key": a_name()}
            headers["Host"] = f"{a_name()}.example"
            for path in (
                "/v2/models/doubler/infer",
                f"/v2/models/{a_name()}/infer",
                f"/v2/models/doubler/versions/{a_name()}/infer",
                f"/{a_name()}/{a_name()}?{a_name()}={a_name()}",
            ):
                await client.post(path, json=body, headers=headers)
            token = place.authorization(subject=a_name())
            await client.get(f"/v2/models/{a_name()}", headers=token)

        await ask()
        before = series(render(b"")[0].decode())
        for _ in range(NAMES // 5):
            await ask()

    text = render(b"")[0].decode()
    assert not any(name in text for name in made)
    assert all('model="doubler"' in each for each in series(text) - before)


@pytest.mark.faults
def test_ob_08_metrics_are_right_while_they_are_hammered_and_a_worker_dies(tmp_path: Path) -> None:
    """Every scrape is whole; nothing is counted twice, before and after a worker's death; inference
    goes on meanwhile."""
    with Instance(tmp_path, http={"workers": 2}) as instance:
        instance.expect("ready")
        with httpx.Client() as client, hammered(instance) as hammers:
            answered = sum(instance.infer().status_code == 200 for _ in range(20))
            counted = total(scrape(client, instance))
            before = workers(instance)
            os.kill(before[0], signal.SIGKILL)
            wait_until(lambda: len(workers(instance)) == 2 and before[0] not in workers(instance))
            wait_until(lambda: len(processes(scrape(client, instance))) == 2)
            answered += sum(instance.infer().status_code == 200 for _ in range(20))
            afterwards = total(scrape(client, instance))

    assert answered == 40
    assert counted == 20
    assert 20 <= afterwards <= 40  # What the dead worker had counted is gone, and nothing else.
    assert all(each.result() > 1 for each in hammers)


@contextlib.contextmanager
def hammered(instance: Instance) -> Iterator[list[Future[int]]]:
    """Scrapes from several threads until the block ends; how many each made."""
    ended = Event()

    def hammer() -> int:
        count = 0
        with httpx.Client() as client:
            while not ended.wait(PAUSE_S):
                scrape(client, instance)
                count += 1
        return count

    with ThreadPoolExecutor(SCRAPERS) as executor:
        try:
            yield [executor.submit(hammer) for _ in range(SCRAPERS)]
        finally:
            ended.set()


def scrape(client: httpx.Client, instance: Instance) -> str:
    answer = client.get(f"{instance.metrics_url}/metrics", timeout=20)
    assert answer.status_code == 200
    list(text_string_to_metric_families(answer.text))
    return answer.text


def total(text: str) -> float:
    """Predictions that were answered, over all processes."""
    found = re.findall(r'^serving_requests_total{[^}]*fate="ok"[^}]*} (\S+)$', text, re.MULTILINE)
    return sum(map(float, found))


def processes(text: str) -> set[str]:
    """Gateway workers that tell what they count."""
    return set(re.findall(r'process="(gateway-[0-9]+)",?[^}]*} ', text))


def workers(instance: Instance) -> list[int]:
    found = []
    for pid in descendants(instance.process.pid):
        with contextlib.suppress(OSError):  # It may end while we look.
            if "serving.app.worker" in Path(f"/proc/{pid}/cmdline").read_text():
                found.append(pid)
    return found
