"""What can be changed while it runs, given files that are no good, under load."""

import ssl
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Event, Thread

import httpx
import pytest
from typer.testing import CliRunner, Result

from serving.cli import app
from tests.catalogue import write_models
from tests.edge.certificates import Authority
from tests.instances import Instance
from tests.operators import Operator
from tests.places import wait_until

pytestmark = [pytest.mark.faults, pytest.mark.timeout(120)]

ROW = {"inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "data": [1, 2]}]}
BAD_FILES = {
    "no YAML": "deployments: [{",
    "no deployments": "deployment: []",
    "an unknown key": "deployments: [{model: doubler, stabel: '2'}]",
    "a wrong type": "deployments: [{model: doubler, stable: [2]}]",
    "an unknown version": "deployments: [{model: doubler, stable: '99'}]",
}


@contextmanager
def load(
    instance: Instance, url: str, verify: ssl.SSLContext | bool = True
) -> Iterator[Counter[tuple[int, str]]]:
    """A caller that never pauses: how often each status came from which version."""
    answers: Counter[tuple[int, str]] = Counter()
    ended = Event()
    headers = {"Authorization": f"Bearer {instance.token()}"}

    def call() -> None:
        with httpx.Client(base_url=url, headers=headers, verify=verify) as client:
            while not ended.is_set():
                answer = client.post("/v2/models/doubler/infer", json=ROW)
                version = answer.headers.get("serving-model-version", "")
                answers[answer.status_code, version] += 1

    caller = Thread(target=call)
    caller.start()
    try:
        yield answers
    finally:
        ended.set()
        caller.join()


def go_on(answers: Counter[tuple[int, str]]) -> None:
    """Returns after fifty more answers."""
    enough = answers.total() + 50
    wait_until(lambda: answers.total() >= enough)


def test_op_09_a_bad_file_of_deployments_changes_nothing(tmp_path: Path) -> None:
    """Each is refused with a reason and a status; the same version answers all along, without a gap."""
    models = write_models(tmp_path / "models")
    serves = {"model": "doubler", "stable": "1"}
    with Instance(tmp_path, deployments=[serves], models_dir=models) as instance:
        instance.expect("ready")
        before = Operator(instance).ask("GET", "/v1/traffic").json()
        with load(instance, instance.url) as answers:
            for text in BAD_FILES.values():
                file = tmp_path / "bad.yaml"
                file.write_text(text)
                refused = apply(instance, file)
                assert refused.exit_code, text
                assert str(refused.exception), text
                go_on(answers)
        after = Operator(instance).ask("GET", "/v1/traffic").json()

    assert set(answers) == {(200, "1")}
    assert after == before


def apply(instance: Instance, file: Path) -> Result:
    arguments = ["apply", "-f", str(file), "--yes", "--data-dir", str(instance.data_dir)]
    return CliRunner().invoke(app, arguments)


def test_op_09_a_bad_certificate_changes_nothing(tmp_path: Path) -> None:
    """Files that are no certificate take the place of one that is used: new connections get the old
    one, nothing fails, the log says what is wrong."""
    authority = Authority(tmp_path)
    certificate, key = authority.issue("server")
    tls = {"certificate": str(certificate), "key": str(key)}
    models = write_models(tmp_path / "models")
    serves = {"model": "doubler", "stable": "1"}
    trust = ssl.create_default_context(cafile=str(authority.file))
    trust.check_hostname = False
    with Instance(tmp_path, deployments=[serves], models_dir=models, http=tls) as instance:
        instance.expect("ready")
        url = instance.url.replace("http://", "https://")
        with load(instance, url, trust) as answers:
            go_on(answers)
            certificate.write_text("this is no certificate\n")
            log = instance.data_dir / "logs" / "gateway-0.log"
            wait_until(lambda: "the new certificate cannot be used" in log.read_text())
            with load(instance, url, trust) as others:
                go_on(others)
            go_on(answers)

    assert set(answers) | set(others) == {(200, "1")}
