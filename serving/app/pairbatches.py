"""Pairs of records as columns: what `monitoring.comparison` takes.

A batch holds rows of one shape; pairs of other shapes, or with other features, are batches of their
own. What a record does not hold as it was (hashed, dropped, encrypted for want of a key) cannot be
compared: such pairs are left out, and counted by reason. The time of an answer is the model's time for
a row of its batch: what a copy waits in its queue says nothing about the candidate.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from serving.core.models import ModelVersion
from serving.core.predictions import Fate, NamedTensor, PredictionRecord
from serving.core.tensors import Array
from serving.ledger.pairs import Pair
from serving.monitoring.observations import Column, PairBatch
from serving.monitoring.specification import ComparisonSpecification

PRINCIPAL = "principal"


@dataclass(slots=True)
class Batches:
    """batches: with the pairs that each was made of. left_out: pairs by reason."""

    batches: list[tuple[PairBatch, list[Pair]]] = field(default_factory=list)
    left_out: dict[str, int] = field(default_factory=dict)


def feature_names(specification: ComparisonSpecification) -> tuple[str, ...]:
    """What the slices are cut by."""
    return tuple(dict.fromkeys(cut.by for cut in specification.slices))


def batches_of(pairs: Iterable[Pair], definition: ModelVersion, features: Sequence[str]) -> Batches:
    """definition: of the primary. features: wanted; those that a record does not have are absent."""
    found = Batches()
    groups: dict[object, list[tuple[Pair, Mapping[str, Column]]]] = {}
    for pair in pairs:
        reason = _incomparable(pair)
        if reason:
            found.left_out[reason] = found.left_out.get(reason, 0) + 1
            continue
        columns = columns_of(pair.primary, definition, features)
        groups.setdefault(_form(pair, columns), []).append((pair, columns))
    for members in groups.values():
        found.batches.append((_batch(members), [pair for pair, _ in members]))
    return found


def columns_of(
    record: PredictionRecord, definition: ModelVersion, features: Iterable[str]
) -> dict[str, Column]:
    """Those of the wanted features that the record has, a value for each row."""
    found: dict[str, Column] = {}
    for name in features:
        column = _column(record, definition, name)
        if column is not None:
            found[name] = column
    return found


def _column(record: PredictionRecord, definition: ModelVersion, name: str) -> Column | None:
    if name == PRINCIPAL:
        return np.full(record.rows, record.principal, object)
    for tensor in (*record.inputs, *record.outputs):
        if tensor.name == name and tensor.keeping == "kept":
            rows = tensor.array.reshape(record.rows, -1)
            return _plain(rows[:, 0]) if rows.shape[1] == 1 else None
    for declared in definition.inputs:
        if name in declared.features:
            given = next((each for each in record.inputs if each.name == declared.name), None)
            if given is None or given.keeping != "kept":
                return None
            rows = given.array.reshape(record.rows, -1)
            place = declared.features.index(name)
            return _plain(rows[:, place]) if place < rows.shape[1] else None
    return None


def _plain(column: Array) -> Column:
    """Text as `str`, so that it is what a specification writes."""
    if column.dtype != object:
        return column
    values = [v.decode(errors="replace") if isinstance(v, bytes) else v for v in column.tolist()]
    return np.array(values, object)


def _incomparable(pair: Pair) -> str:
    """Why; empty when it can be compared."""
    tensors: tuple[NamedTensor, ...] = pair.primary.outputs
    if pair.candidate.fate is Fate.OK:
        tensors = (*tensors, *pair.candidate.outputs)
    return next((tensor.keeping for tensor in tensors if tensor.keeping != "kept"), "")


def _form(pair: Pair, columns: Mapping[str, Column]) -> object:
    return (
        tuple(_tensor_form(each) for each in pair.primary.outputs),
        tuple(_tensor_form(each) for each in _answer(pair)),
        tuple((name, column.dtype.kind == "O") for name, column in columns.items()),
    )


def _tensor_form(tensor: NamedTensor) -> object:
    return tensor.name, tensor.datatype, tensor.array.shape[1:]


def _answer(pair: Pair) -> tuple[NamedTensor, ...]:
    """The candidate's; of a failure zeros in the place of the primary's."""
    if pair.candidate.fate is Fate.OK:
        return pair.candidate.outputs
    return tuple(
        NamedTensor(each.name, each.datatype, np.zeros_like(each.array))
        for each in pair.primary.outputs
    )


def _batch(members: Sequence[tuple[Pair, Mapping[str, Column]]]) -> PairBatch:
    pairs = [pair for pair, _ in members]
    rows = np.array([pair.primary.rows for pair in pairs])
    answered = np.array([pair.candidate.fate is Fate.OK for pair in pairs])
    return PairBatch(
        primary=_joined([pair.primary.outputs for pair in pairs]),
        candidate=_joined([_answer(pair) for pair in pairs]),
        request=np.repeat(np.arange(len(pairs), dtype=np.int64), rows),
        primary_ok=np.ones(int(rows.sum()), bool),
        candidate_ok=np.repeat(answered, rows),
        primary_us=np.repeat([_time_us(pair.primary) for pair in pairs], rows),
        candidate_us=np.repeat([_time_us(pair.candidate) for pair in pairs], rows),
        features={
            name: np.concatenate([columns[name] for _, columns in members])
            for name in members[0][1]
        },
    )


def _joined(answers: Sequence[tuple[NamedTensor, ...]]) -> dict[str, Array]:
    return {
        tensor.name: np.concatenate([each[place].array for each in answers])
        for place, tensor in enumerate(answers[0])
    }


def _time_us(record: PredictionRecord) -> float:
    if record.fate is not Fate.OK or record.cached or not record.run_us:
        return float("nan")
    return record.run_us / max(record.batch_size, 1)
