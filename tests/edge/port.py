"""The inference port on connections in memory: real wire, real pipeline, replicas that are functions."""

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from serving.access.tokens import ApiKeyCheck, Authenticator
from serving.core.batches import BatchAnswer, BatchPart, RowFailure, TensorBlock
from serving.core.models import Digest, ModelName, ModelVersion, VersionName
from serving.core.principals import Role
from serving.core.tensors import Array, TensorSpecification
from serving.core.traffic import Shadow, Snapshot, TrafficPolicy
from serving.edge.http1.connection import Connection
from serving.edge.http1.server import HttpServer
from serving.edge.rest import RestApplication
from serving.errors import ServingError
from serving.gateway.forming import Frame
from serving.port_settings import HttpSettings
from serving.settings import AccessSettings
from tests.edge.wire import Answer, MemoryTransport, parse_answers, request
from tests.gateway.stand import Stand, a_stand

Function = Callable[[list[Array]], list[Array]]
INFER = "/v2/models/echo/infer"


def echo(*inputs: TensorSpecification, version: str = "1", finite: bool = True) -> ModelVersion:
    """A version whose outputs are its inputs."""
    return ModelVersion(
        model=ModelName("echo"),
        version=VersionName(version),
        digest=Digest(f"{int(version):064x}"),
        inputs=inputs,
        outputs=inputs,
        finite_inputs=finite,
    )


ECHO = echo(TensorSpecification("x", "FP32", (-1, 2)), TensorSpecification("n", "INT64", (-1,)))
"""Two inputs; every row has two numbers and one whole number."""


def message(rows: int = 1, **members: Any) -> dict[str, Any]:
    """A request that `ECHO` answers."""
    tensors = [
        {"name": "x", "datatype": "FP32", "shape": [rows, 2], "data": [0.5] * (2 * rows)},
        {"name": "n", "datatype": "INT64", "shape": [rows], "data": [7] * rows},
    ]
    return {"inputs": tensors} | members


class FunctionLink:
    """A replica that runs `function`; it answers when told. Fits `gateway.batching.ReplicaLink`."""

    def __init__(self, function: Function | RowFailure = list) -> None:
        """function: from the inputs of a batch to its outputs, or why every row fails."""
        self.ready = True
        self.closed = False
        self.outstanding_rows = 0
        self.credits = 2
        self.frames: list[Frame] = []
        self._function = function

    @property
    def has_credit(self) -> bool:
        return self.ready

    def send(self, sink: Frame) -> None:
        self.frames.append(sink)

    def check(self, now_ns: int) -> None:
        """Never silent."""

    def abort(self) -> None:
        self.ready, self.closed = False, True

    def answer(self) -> None:
        """Answers everything that was sent."""
        frames, self.frames = self.frames, []
        for frame in frames:
            frame.answered(self._run(frame))

    def _run(self, frame: Frame) -> BatchAnswer:
        batch = frame.batch
        parts = (BatchPart(batch.rows, 5, batch.rows, 0, 100, 200),)
        if isinstance(self._function, RowFailure):
            return BatchAnswer(
                batch.rows, (), parts, dict.fromkeys(range(batch.rows), self._function)
            )
        outputs = self._function([tensor.array(batch.rows) for tensor in batch.tensors])
        blocks = [TensorBlock.of(np.ascontiguousarray(output)) for output in outputs]
        return BatchAnswer(batch.rows, tuple(blocks), parts)


class InferencePort:
    """One worker's inference port. The first version is stable, the second its candidate."""

    def __init__(
        self,
        folder: Path,
        *versions: ModelVersion,
        function: Function | RowFailure = list,
        api_keys: ApiKeyCheck | None = None,
        **groups: object,
    ) -> None:
        self.stand: Stand = a_stand(folder, api_keys=api_keys, **groups)
        self.refusals: list[ServingError] = []
        self.unready: str | None = None
        self.replica = FunctionLink(function)
        self.serve(*versions)
        self.application = RestApplication(
            self.stand.pipeline,
            authenticator=Authenticator(
                [self.stand.issuer.trusted], AccessSettings(), api_keys=api_keys
            ),
            readiness=self,
            metrics=self.stand.metrics,
            limits=HttpSettings(),
            now_s=lambda: self.stand.clock.wall_ns() / 1e9,
            refused=self.refusals.append,
        )
        self.server = HttpServer(
            self.application, limits=HttpSettings(), refused=self.refusals.append
        )

    def not_ready(self) -> str | None:
        return self.unready

    def serve(self, *versions: ModelVersion) -> None:
        """Publishes these versions instead of those before."""
        versions = versions or (ECHO,)
        shadows = tuple(Shadow(each.version) for each in versions[1:])
        policy = TrafficPolicy(versions[0].model, versions[0].version, shadows)
        pipeline = self.stand.pipeline
        pipeline.apply(Snapshot(pipeline.table.epoch + 1, versions, (policy,)))
        for queue in pipeline.table.queues.values():
            queue.links[:] = [self.replica]

    def token(self, *, subject: str = "ada", role: Role = Role.CALLER, **claims: Any) -> str:
        token = self.stand.issuer.issue(subject=subject, roles=[role], **claims)
        return f"Authorization: Bearer {token}"

    def send(self, *raw: bytes) -> list[MemoryTransport]:
        """Each on a connection of its own, in one turn of the loop; answered if they can be."""
        transports = []
        for data in raw:
            connection, transport = Connection(self.server), MemoryTransport()
            transport.serve(connection)
            connection.data_received(data)
            transports.append(transport)
        self.stand.turns.run()
        self.replica.answer()
        self.stand.turns.run()
        return transports

    def ask(self, raw: bytes) -> Answer:
        (transport,) = self.send(raw)
        (answer,) = parse_answers(transport.written)
        return answer

    def get(self, target: str, *headers: str, role: Role = Role.CALLER) -> Answer:
        """With a token of that role."""
        return self.ask(request("GET", target, self.token(role=role), *headers))

    def post(
        self, target: str, body: bytes = b"", *headers: str, role: Role = Role.CALLER
    ) -> Answer:
        """With a token of that role."""
        return self.ask(request("POST", target, self.token(role=role), *headers, body=body))

    def infer(
        self,
        body: bytes | dict[str, Any],
        *headers: str,
        target: str = INFER,
        role: Role = Role.CALLER,
    ) -> Answer:
        return self.ask(self.inference(body, *headers, target=target, role=role))

    def inference(
        self,
        body: bytes | dict[str, Any],
        *headers: str,
        target: str = INFER,
        role: Role = Role.CALLER,
    ) -> bytes:
        raw = body if isinstance(body, bytes) else json.dumps(body).encode()
        return request("POST", target, self.token(role=role), *headers, body=raw)

    @property
    def admitted(self) -> int:
        """How many requests got a prediction id."""
        return self.stand.log.sequence


def binary(
    body: dict[str, Any], *parts: bytes, json_bytes: int | str | None = None
) -> tuple[bytes, str]:
    """A body with binary tensors behind its JSON, and the header that says where they begin."""
    head = json.dumps(body).encode()
    length = len(head) if json_bytes is None else json_bytes
    return head + b"".join(parts), f"Inference-Header-Content-Length: {length}"


def tensor(
    name: str, datatype: str, shape: Sequence[Any], data: Any = None, **members: Any
) -> dict[str, Any]:
    made: dict[str, Any] = {"name": name, "datatype": datatype, "shape": list(shape)}
    return made | ({} if data is None else {"data": data}) | members
