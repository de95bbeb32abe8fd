"""What the product must reach, as data, and whether it did.

Absolute goals hold for the machine that they were set for: two cores with the load generator on the
same ones, everything on. Ratios compare things measured in the same run and hold everywhere. A goal
of a case that was not asked for is reported as not measured; it is never counted as kept.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

from loadtests.summaries import CaseSummary

REFERENCE_CORES: Final = 2

Kind = Literal["absolute", "ratio"]
Figure = Literal["rate_per_s", "p50_ms", "ratio"]
UNITS: Final[Mapping[Figure, str]] = {"rate_per_s": "req/s", "p50_ms": "ms p50", "ratio": ""}


@dataclass(frozen=True, slots=True)
class Threshold:
    """A bound on the first side of a case, or on its ratio. A latency must stay below, all else above."""

    case: str
    figure: Figure
    bound: float
    meaning: str

    @property
    def kind(self) -> Kind:
        return "ratio" if self.figure == "ratio" else "absolute"

    @property
    def at_most(self) -> bool:
        return self.figure == "p50_ms"


THRESHOLDS: Final = (
    Threshold("m1-json-c64", "rate_per_s", 30_000, "one-row JSON"),
    Threshold("m1-binary-c128", "rate_per_s", 45_000, "one-row binary"),
    Threshold("m1-json-c1", "p50_ms", 0.7, "one caller, JSON"),
    Threshold("m1-binary-c1", "p50_ms", 0.7, "one caller, binary"),
    Threshold("m1-grpc-c64", "ratio", 0.8, "gRPC over a fixed answer of its library"),
    Threshold("log-off-c256", "ratio", 0.9, "synced log over no log"),
    Threshold("m2-binary-c128", "ratio", 0.95, "of the best raw ONNX Runtime throughput"),
    Threshold("plain-ray-c64", "ratio", 90, "times the plain Ray Serve application"),
)


@dataclass(frozen=True, slots=True)
class Verdict:
    """measured: None when the case was not asked for. binding: whether a miss fails the run."""

    threshold: Threshold
    measured: float | None
    binding: bool

    @property
    def missed(self) -> bool:
        if self.measured is None:
            return False
        bound = self.threshold.bound
        kept = self.measured <= bound if self.threshold.at_most else self.measured >= bound
        return not kept  # so that a figure that is no number is a miss

    @property
    def state(self) -> str:
        if self.measured is None:
            return "not measured"
        if not self.missed:
            return "kept"
        return "MISSED" if self.binding else "missed, not binding here"

    @property
    def distance(self) -> str:
        """By how much it was kept or missed, as a share of the bound."""
        if self.measured is None:
            return ""
        share = self.measured / self.threshold.bound - 1
        return f"{abs(share):.1%} {'above' if share > 0 else 'below'}"


def evaluate(cases: Sequence[CaseSummary], *, absolute_binds: bool) -> list[Verdict]:
    """A verdict for every threshold, in their order."""
    measured = {case.name: case for case in cases}
    return [
        Verdict(
            threshold,
            _figure(measured.get(threshold.case), threshold.figure),
            binding=threshold.kind == "ratio" or absolute_binds,
        )
        for threshold in THRESHOLDS
    ]


def _figure(case: CaseSummary | None, figure: Figure) -> float | None:
    if case is None:
        return None
    if figure == "ratio":
        return case.ratio.value if case.ratio is not None else float("nan")
    side = case.sides[0]
    return side.rate_per_s if figure == "rate_per_s" else side.p50_ms
