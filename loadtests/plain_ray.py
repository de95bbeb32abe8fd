"""The peer: M1 as a plain Ray Serve application, as Ray's own documentation would have it.

    python -m loadtests.plain_ray ARTIFACT --port PORT --folder FOLDER

One deployment class, `@serve.batch` with at most 64 rows and 2 ms of waiting, JSON in and out,
behind Serve's own HTTP proxy, on a Ray cluster of its own. It neither authenticates callers nor
records anything. What is not at its default:

- `max_ongoing_requests`: with the default of 5 a batch never fills, and Serve's router backs off so
  long that 64 connections get 10 requests per second instead of 300. That peer would be no match.
- no dashboard, which would only cost the peer; addresses and the cluster's token stay private.
- ONNX Runtime has the options that ours has: one thread that does not spin.

Prints `ready` when it answers and runs until SIGTERM. No process outlives it.
"""

import argparse
import logging
import os
import secrets
import signal
import sys
import threading
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnxruntime  # type: ignore[import-untyped]  # it ships no types
import ray
from numpy.typing import NDArray
from ray import serve
from ray.serve.config import HTTPOptions
from starlette.requests import Request

from serving.app.descendants import become_subreaper, kill_descendants

LOOPBACK: Final = "127.0.0.1"
MAX_BATCH_SIZE: Final = 64
BATCH_WAIT_S: Final = 0.002
MAX_ONGOING_REQUESTS: Final = 2 * MAX_BATCH_SIZE


@serve.deployment(max_ongoing_requests=MAX_ONGOING_REQUESTS)
class PlainModel:
    """Answers the same JSON as the product to the same JSON, one row per request."""

    def __init__(self, artifact: str) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.add_session_config_entry("session.intra_op.allow_spinning", "0")
        self._session = onnxruntime.InferenceSession(
            artifact, options, providers=["CPUExecutionProvider"]
        )

    @serve.batch(max_batch_size=MAX_BATCH_SIZE, batch_wait_timeout_s=BATCH_WAIT_S)
    async def infer(self, rows: list[NDArray[np.float32]]) -> list[NDArray[np.float32]]:
        (output,) = self._session.run(None, {"input": np.stack(rows)})
        return list(output)

    async def __call__(self, request: Request) -> dict[str, Any]:
        (tensor,) = (await request.json())["inputs"]
        output = await self.infer(np.asarray(tensor["data"], dtype=np.float32))
        answer = {"name": "output", "datatype": "FP32", "shape": [1, len(output)]}
        return {"outputs": [{**answer, "data": output.tolist()}]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("artifact", type=Path)
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--folder", type=Path, required=True, help="short, private, for Ray")
    arguments = parser.parse_args()
    become_subreaper()
    stopping = threading.Event()
    _serve(arguments.artifact, port=arguments.port, folder=arguments.folder)
    # Ray puts a handler of its own in place, so ours comes after it.
    signal.signal(signal.SIGTERM, lambda *_: stopping.set())
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    stopping.wait()
    serve.shutdown()  # type: ignore[no-untyped-call]  # Ray's
    ray.shutdown()
    kill_descendants()


def _serve(artifact: Path, *, port: int, folder: Path) -> None:
    token = folder / "token"
    token.touch(mode=0o600)
    token.write_text(secrets.token_hex(32))
    os.environ.update(
        RAY_AUTH_TOKEN_PATH=str(token),
        # Otherwise Ray listens on the machine's address instead of on loopback.
        RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER="0",
        RAY_USAGE_STATS_ENABLED="0",
    )
    ray.init(
        address="local",
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.WARNING,
        _node_ip_address=LOOPBACK,
        _temp_dir=str(folder),
    )
    serve.start(http_options=HTTPOptions(host=LOOPBACK, port=port))
    serve.run(PlainModel.bind(str(artifact)))  # type: ignore[attr-defined]  # the decorator adds it


if __name__ == "__main__":
    main()
