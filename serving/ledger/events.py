"""Outcomes and declared losses as tables, by model."""

from collections.abc import Callable, Sequence
from typing import Any

import msgspec
import pyarrow as pa

from serving.core.outcomes import Outcome
from serving.ledger.schemas import LOSSES, OUTCOMES
from serving.predictionlog.format import HEAD
from serving.predictionlog.losses import decode_loss
from serving.predictionlog.outcomes import decode_outcome

Rows = dict[str, list[dict[str, Any]]]

_encode = msgspec.json.Encoder().encode


def outcomes_table(frames: bytes, offsets: Sequence[int], *, log_id: str) -> dict[str, pa.Table]:
    """The reports of each model, in their order. Raises ValueError for what no writer writes."""
    return _tables(frames, offsets, OUTCOMES, lambda at: _outcome(frames, at, log_id))


def losses_table(frames: bytes, offsets: Sequence[int], *, log_id: str) -> dict[str, pa.Table]:
    """The losses of each model, in their order. Raises ValueError for what no writer writes."""
    return _tables(frames, offsets, LOSSES, lambda at: _loss(frames, at, log_id))


def _tables(
    frames: bytes, offsets: Sequence[int], schema: pa.Schema, row: Callable[[int], dict[str, Any]]
) -> dict[str, pa.Table]:
    found: Rows = {}
    for at in offsets:
        values = row(at)
        values["sequence"] = HEAD.unpack_from(frames, at)[4]
        found.setdefault(values["model"], []).append(values)
    return {model: pa.Table.from_pylist(rows, schema) for model, rows in found.items()}


def _outcome(frames: bytes, at: int, log_id: str) -> dict[str, Any]:
    outcome = decode_outcome(frames, at)
    return {
        "prediction_id": outcome.prediction_id,
        "row": outcome.row,
        "name": outcome.name,
        "value": _encode(outcome.value).decode(),
        "number": _number(outcome),
        "observed": outcome.observed_ns,
        "time": outcome.reported_ns,
        "revision": outcome.revision,
        "model": outcome.model,
        "principal": outcome.principal,
        "log_id": log_id,
    }


def _number(outcome: Outcome) -> float | None:
    value = outcome.value
    return float(value) if isinstance(value, bool | int | float) else None


def _loss(frames: bytes, at: int, log_id: str) -> dict[str, Any]:
    loss = decode_loss(frames, at)
    return {
        "model": loss.model,
        "version": loss.version,
        "count": loss.count,
        "since": loss.since_ns,
        "until": loss.until_ns,
        "reason": loss.reason,
        "time": loss.declared_ns,
        "lost_of": loss.log_id,
        "log_id": log_id,
    }
