"""What is measured, as data, in the order that needs the fewest starts.

A case has one side, or two that are compared in pairs: each repetition measures both, in random
order, and the ratio is taken within it; whichever is not measured stands idle beside the other. A
side names a server: one is started when a case needs it and ended when the next one does not.

    product       the product with everything on; the log is synced before the answer
    log-process   the same, but an answer waits only until the kernel has its record
    log-off       the same without a log
    plain-ray     a plain Ray Serve application
    edge, bare    fixed answers: our HTTP server, and a protocol that parses nothing
    grpc          a fixed answer of the gRPC library on its own
    raw           ONNX Runtime alone, one thread, at the batch size that its sweep found best
"""

from dataclasses import dataclass
from typing import Final, Literal

ServerName = Literal[
    "product", "log-process", "log-off", "plain-ray", "edge", "bare", "grpc", "raw"
]
PayloadName = Literal["json", "binary", "grpc"]

MODELS: Final = {"M1": "bench-m1", "M2": "bench-m2"}


@dataclass(frozen=True, slots=True)
class Side:
    """One server under one load. connections: of the closed loop; the raw model has none."""

    server: ServerName
    model: str
    payload: PayloadName
    connections: int


@dataclass(frozen=True, slots=True)
class Case:
    """One or two sides; the ratio of two is the first over the second, by requests per second."""

    name: str
    sides: tuple[Side, ...]

    @property
    def servers(self) -> frozenset[ServerName]:
        return frozenset(side.server for side in self.sides)


def _alone(model: str, payload: PayloadName, connections: int) -> Case:
    side = Side("product", model, payload, connections)
    return Case(f"{model.lower()}-{payload}-c{connections}", (side,))


def _against(other: ServerName, connections: int) -> Case:
    """M1 in JSON by the product and by `other`."""
    sides = (Side("product", "M1", "json", connections), Side(other, "M1", "json", connections))
    return Case(f"{other}-c{connections}", sides)


def _against_raw(payload: PayloadName, connections: int) -> Case:
    """M2 by the product and by the model alone."""
    sides = (Side("product", "M2", payload, connections), Side("raw", "M2", payload, 0))
    return Case(f"m2-{payload}-c{connections}", sides)


CASES: Final = (
    Case("fixed-answer-c64", (Side("edge", "M1", "json", 64), Side("bare", "M1", "json", 64))),
    *(_alone("M1", "json", connections) for connections in (1, 64, 128, 256)),
    *(_alone("M1", "binary", connections) for connections in (1, 64, 128, 256)),
    Case("m1-grpc-c64", (Side("product", "M1", "grpc", 64), Side("grpc", "M1", "grpc", 64))),
    _alone("M2", "json", 1),
    _against_raw("json", 64),
    _against_raw("binary", 64),
    # The binding one: two full batches of 64 in flight, so that one can fill while one runs.
    _against_raw("binary", 128),
    _against("log-off", 64),
    _against("log-off", 256),
    _against("log-process", 64),
    _against("log-process", 256),
    _against("plain-ray", 64),
)
PEER_CASES: Final = frozenset(case.name for case in CASES if "plain-ray" in case.servers)
