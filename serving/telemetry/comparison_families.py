"""Metric families of the monitor process: how candidates compare, and how far behind that is."""

from typing import Final

from serving.telemetry.metrics import Definition

COMPARISON_PAIRS = Definition(
    "serving_comparison_pairs_total",
    "Answers compared with those of a candidate.",
    ("model", "candidate"),
)
COMPARISON_FAILURES = Definition(
    "serving_comparison_failures_total",
    "Compared pairs in which the candidate failed.",
    ("model", "candidate"),
)
COMPARISON_UNPAIRED = Definition(
    "serving_comparison_unpaired_total",
    "Records that were not compared for want of their other half.",
    ("model", "candidate", "reason"),
)
COMPARISON_DISAGREEMENT = Definition(
    "serving_comparison_disagreement_ratio",
    "Share of rows on which a candidate disagrees, of the output where that is most.",
    ("model", "candidate"),
)
COMPARISON_GAP = Definition(
    "serving_comparison_gap_ratio",
    "Share of a candidate's copies that should be in the log and are not.",
    ("model", "candidate"),
)
COMPARISON_SHARE = Definition(
    "serving_comparison_share_ratio",
    "Share of the pairs that is compared; below 1 there are more than comparison.max_pairs_per_s.",
    ("model", "candidate"),
)
COMPARISON_SKIPPED = Definition(
    "serving_comparison_skipped_total", "Copies passed by because there were too many.", ("model",)
)
COMPARISON_DECISION = Definition(
    "serving_comparison_decision_info",
    "1 for what the comparison says now: promote, hold or reject.",
    ("model", "candidate", "outcome"),
)
COMPARISON_LAG = Definition(
    "serving_comparison_lag_seconds", "How far the monitor is behind the prediction log."
)
COMPARISON_WAITING = Definition(
    "serving_comparison_waiting_records", "Compared answers that wait for their outcomes."
)
COMPARISON_UNJUDGED = Definition(
    "serving_comparison_unjudged_total",
    "Compared answers given up before their outcomes came, for want of room.",
)
COMPARISON_FAMILIES: Final = (
    COMPARISON_PAIRS, COMPARISON_FAILURES, COMPARISON_UNPAIRED, COMPARISON_DISAGREEMENT, COMPARISON_GAP,
    COMPARISON_SHARE, COMPARISON_SKIPPED, COMPARISON_DECISION, COMPARISON_LAG, COMPARISON_WAITING,
    COMPARISON_UNJUDGED,
)  # fmt: skip
