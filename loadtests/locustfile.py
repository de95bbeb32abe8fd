"""Users who send real census rows, in four scenarios, with an objective that can fail.

With `serving up` running in the same folder, one command:

    locust -f loadtests/locustfile.py --headless --scenario steady

Scenarios: steady, step, spike, soak (see `scenarios`). `--peak-users`, `--duration-s`,
`--max-error-share` and `--max-p99-ms` replace what the scenario has; each can be set in the
environment as LOAD_PEAK_USERS and so on. The exit status is 0 when the objective was kept, 1 when it
was not: the reasons are the last lines of the log.

The token comes from SERVING_TOKEN, or else from `serving token`, which needs the data directory of
the running instance: this folder's `.serving`, or SERVING_DATA_DIR. `--host` names the server.

Every answer is checked: status, shape, and that the probabilities of each row add up to one. A user
waits between requests so as to send about ten a second. Locust times from the send, not from the
moment a request was due, and takes more CPU per request than the gateway: its figures say whether
an objective was kept here, and are never reported as the gateway's speed.
"""

import json
import logging
import subprocess
import sys
from pathlib import Path
from typing import Any, Final

import numpy as np
from locust import FastHttpUser, LoadTestShape, constant_throughput, events, task
from locust.argument_parser import LocustArgumentParser
from locust.env import Environment

from loadtests.scenarios import SCENARIOS, Objective, Outcome, broken_promises, users_at

ROWS: Final = Path(__file__).resolve().parents[1] / "models/census-employment/samples/rows.npy"
MODEL_PATH: Final = "/v2/models/census-employment"
BATCH_ROWS: Final = 8
SPAWN_PER_S: Final = 20
TOLERANCE: Final = 1e-4

_log = logging.getLogger(__name__)


@events.init_command_line_parser.add_listener  # type: ignore[untyped-decorator]  # as Locust has it
def add_options(parser: LocustArgumentParser) -> None:
    group = parser.add_argument_group("Scenario")
    group.add_argument(
        "--scenario", choices=list(SCENARIOS), default="steady", env_var="LOAD_SCENARIO"
    )
    group.add_argument("--peak-users", type=int, default=20, env_var="LOAD_PEAK_USERS")
    group.add_argument("--duration-s", type=float, default=None, env_var="LOAD_DURATION_S")
    group.add_argument("--max-error-share", type=float, env_var="LOAD_MAX_ERROR_SHARE")
    group.add_argument("--max-p99-ms", type=float, env_var="LOAD_MAX_P99_MS")
    parser.add_argument("--token", default="", env_var="SERVING_TOKEN", is_secret=True)


@events.test_start.add_listener  # type: ignore[untyped-decorator]  # as Locust has it
def obtain_token(environment: Environment, **_: object) -> None:
    """Makes a token with the local issuer when none was given."""
    options = environment.parsed_options
    if options is not None and not options.token:
        command = [sys.executable, "-m", "serving", "token"]
        command += ["--subject", "load-test", "--role", "caller", "--ttl", "12h"]
        made = subprocess.run(command, check=True, capture_output=True, text=True)  # noqa: S603 - constant
        options.token = made.stdout.strip()


@events.quitting.add_listener  # type: ignore[untyped-decorator]  # as Locust has it
def judge(environment: Environment, **_: object) -> None:
    """Sets the exit status from the objective."""
    options = environment.parsed_options
    total = environment.stats.total
    if options is None:
        return
    usual = SCENARIOS[options.scenario].objective
    objective = Objective(
        max_error_share=_given(options.max_error_share, usual.max_error_share),
        max_p99_ms=_given(options.max_p99_ms, usual.max_p99_ms),
    )
    p99_ms = total.get_response_time_percentile(0.99) or 0.0
    outcome = Outcome(total.num_requests, total.num_failures, p99_ms)
    broken = broken_promises(objective, outcome)
    for promise in broken:
        _log.error("%s: %s", options.scenario, promise)
    environment.process_exit_code = 1 if broken else 0


class ScenarioShape(LoadTestShape):
    """The number of users over time, as the chosen scenario says."""

    def tick(self) -> tuple[int, float] | None:
        options: Any = self.runner.environment.parsed_options if self.runner else None
        if options is None:
            return None
        scenario = SCENARIOS[options.scenario]
        elapsed_s: float = self.get_run_time()  # type: ignore[no-untyped-call]  # as Locust has it
        share = elapsed_s / _given(options.duration_s, scenario.duration_s)
        users = users_at(scenario, share=share, peak=options.peak_users)
        return None if users is None else (users, SPAWN_PER_S)


class CensusUser(FastHttpUser):
    """Sends mostly single rows, at times a batch, and now and then looks at the model."""

    host = "http://127.0.0.1:8000"
    wait_time = constant_throughput(10)

    def on_start(self) -> None:
        options = self.environment.parsed_options
        self._headers = {"Authorization": f"Bearer {options.token if options else ''}"}
        self._rows = np.load(ROWS, allow_pickle=False)
        self._numbers = np.random.default_rng()

    @task(20)
    def infer_one_row(self) -> None:
        self._infer(1, name="infer 1 row")

    @task(4)
    def infer_batch(self) -> None:
        self._infer(BATCH_ROWS, name=f"infer {BATCH_ROWS} rows")

    @task(1)
    def read_metadata(self) -> None:
        self.client.get(MODEL_PATH, headers=self._headers, name="metadata")

    def _infer(self, count: int, *, name: str) -> None:
        rows = self._rows[self._numbers.integers(0, len(self._rows), count)]
        tensor = {
            "name": "input",
            "shape": rows.shape,
            "datatype": "FP32",
            "data": rows.ravel().tolist(),
        }
        with self.client.post(
            f"{MODEL_PATH}/infer",
            json={"inputs": [tensor]},
            headers=self._headers,
            name=name,
            catch_response=True,
        ) as response:
            wrong = _wrong(response.status_code, response.text, count)
            if wrong:
                response.failure(wrong)


def _wrong(status: int, text: str | None, count: int) -> str | None:
    """What is wrong with an answer to `count` rows, or None."""
    if status == 0:
        return "no answer"
    if status != 200:  # noqa: PLR2004 - the HTTP status OK
        return f"status {status}: {(text or '')[:200]}"
    try:
        outputs = {output["name"]: output for output in json.loads(text or "")["outputs"]}
        sums = np.array(outputs["probabilities"]["data"]).reshape(count, 2).sum(axis=1)
    except (KeyError, TypeError, ValueError) as error:
        return f"not an inference response for {count} rows: {error!r}"
    return None if np.allclose(sums, 1, atol=TOLERANCE) else "probabilities do not add up to one"


def _given(value: float | None, usual: float) -> float:
    return usual if value is None else value
