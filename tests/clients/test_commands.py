import json
import subprocess
from pathlib import Path

import httpx

from tests.instances import Instance


def pasted(command: str) -> str:
    """What a shell prints for a command, exactly as it stands in the ready block."""
    done = subprocess.run(  # noqa: S603 - what the product printed
        ["bash", "-c", command],  # noqa: S607 - the operator's own shell
        capture_output=True,
        text=True,
        timeout=100,
        check=True,
    )
    return done.stdout


def test_printed_request_is_answered(demo: Instance) -> None:
    """The curl line of the ready block works when it is pasted as it is."""
    answer = json.loads(pasted(demo.ready["try_command"]))

    assert answer["model_name"] == "census-employment"
    assert [output["name"] for output in answer["outputs"]] == ["label", "probabilities"]


def test_printed_token_is_accepted(demo: Instance) -> None:
    """The token command prints nothing but a token, which the running instance accepts."""
    token = pasted(demo.ready["token_command"]).removesuffix("\n")

    answer = httpx.get(f"{demo.url}/v2", headers={"Authorization": f"Bearer {token}"})
    assert answer.status_code == httpx.codes.OK


def test_second_instance_runs_beside_the_first(demo: Instance, tmp_path: Path) -> None:
    """Other ports and another data directory: both serve, and neither takes the other's tokens."""
    with Instance(tmp_path) as second:
        second.expect("ready")
        answers = [demo.infer(), second.infer()]
        foreign = {"Authorization": f"Bearer {second.token()}"}
        refused = httpx.get(f"{demo.url}/v2", headers=foreign)

    assert [answer.status_code for answer in answers] == [200, 200]
    assert (refused.status_code, refused.json()["code"]) == (401, "unauthenticated")
