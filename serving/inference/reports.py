"""What an inspection is asked and what it answers: plain values, as JSON between two processes.

The report is bounded: texts are cut, answers are kept up to `MAX_ANSWER_BYTES` and as a digest beyond.
"""

from typing import Final, Literal

import msgspec

from serving.core.models import ModelVersion

MAX_REPORT_BYTES: Final = 512 * 1024
MAX_REASON_LENGTH: Final = 1000
MAX_ANSWER_BYTES: Final = 2048
"""Of one output of one golden vector."""

Code = Literal[
    "unsupported_artifact",
    "unknown_file",
    "external_data",
    "forbidden_node",
    "custom_operator",
    "invalid_model",
    "signature",
    "stages",
    "warm_up",
    "parity",
    "answers_changed",
    "out_of_memory",
    "out_of_time",
    "crashed",
]
"""Why an artifact is rejected."""


class InspectionOrder(msgspec.Struct, frozen=True, kw_only=True):
    """What to inspect. folder: absolute, holds `files`, by path to SHA-256, and nothing else.

    model, version: names. definition: what it should take and answer; None: as the graph says.
    domains: of operators beyond ONNX's own that may be used. parity: a file beside the folder with
    answers of the model it was made from. golden: answers recorded earlier, to compare with.
    memory_bytes: what it may take on top of the libraries.
    """

    folder: str
    files: dict[str, str]
    model: str
    version: str
    definition: ModelVersion | None = None
    domains: tuple[str, ...] = ()
    parity: str = ""
    golden: "tuple[GoldenVector, ...]" = ()
    memory_bytes: int = 0
    cpu_s: int = 0


class GoldenAnswer(msgspec.Struct, frozen=True):
    """One output. content: its elements in base64, empty when it is larger than is kept."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    sha256: str
    content: str = ""


class GoldenVector(msgspec.Struct, frozen=True):
    """Inputs by the name of the rule that makes them, and the answers; without any it failed."""

    inputs: str
    rows: int
    answers: tuple[GoldenAnswer, ...] = ()


class BatchCost(msgspec.Struct, frozen=True):
    """The best time of some runs of so many rows, and by how much memory grew for it."""

    rows: int
    seconds: float
    memory_bytes: int


class Parity(msgspec.Struct, frozen=True):
    """How far the answers are from those of the model it was made from, of all finite numbers.

    differing: rows that differ by more than `tolerance`; special: rows with NaN or infinities.
    """

    rows: int
    special: int
    differing: int
    largest: float
    tolerance: float


class InspectionReport(msgspec.Struct, frozen=True, kw_only=True):
    """code: empty when it passed. definition: as the data plane will run it, when it can be known.

    dependence: why rows must not share batches, empty when they may. differences: golden vectors
    that are not answered as they were.
    """

    code: Code | Literal[""] = ""
    reason: str = ""
    stage: str = ""
    files: dict[str, str] = {}
    runtime: str = ""
    ir_version: int = 0
    opsets: dict[str, int] = {}
    operators: dict[str, int] = {}
    definition: ModelVersion | None = None
    dependence: str = ""
    golden: tuple[GoldenVector, ...] = ()
    differences: tuple[str, ...] = ()
    parity: Parity | None = None
    costs: tuple[BatchCost, ...] = ()
    load_s: float = 0.0
    peak_memory_bytes: int = 0
    seconds: float = 0.0

    @property
    def passed(self) -> bool:
        return not self.code

    @property
    def summary(self) -> str:
        """One line for people."""
        if self.code:
            return f"{self.code}: {self.reason}"
        return (
            f"inspected with {self.runtime}: loaded, warmed up, {len(self.golden)} golden vectors"
        )


class Rejected(Exception):
    """The artifact must not be admitted."""

    def __init__(self, code: Code, reason: str) -> None:
        super().__init__(reason)
        self.code: Code = code
        self.reason = reason[:MAX_REASON_LENGTH]
