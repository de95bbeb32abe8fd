"""Where `serving compare` takes pairs from: the ledger, the result of a replay, a set of data.

All of them give the same pairs of records, so that the same figures mean the same. Of a window of the
ledger the pairs are those that the monitor would have made, all of them. A data set is a `.npz` file
with one array for each input, by its name, and maybe one with the truth; both versions run on it in
this process.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final
from zipfile import BadZipFile

import msgspec
import numpy as np

from serving.core.models import ModelVersion
from serving.core.outcomes import Outcome
from serving.core.predictions import Fate, NamedTensor, PredictionRecord
from serving.core.tensors import Array
from serving.errors import ModelFailed, ParameterInvalid
from serving.inference.offline import OfflineSession
from serving.ledger.pairs import Pair
from serving.ledger.results import ReplayedRow, ReplayHead

CHUNK_ROWS: Final = 256
_NO_LOG: Final = "0" * 16


@dataclass(frozen=True, slots=True)
class Judged:
    """Pairs, and the truths of their rows where they are known."""

    pairs: list[Pair]
    outcomes: list[Outcome]


def file_digest(path: Path) -> str:
    """SHA-256 in hexadecimal. Raises ParameterInvalid."""
    try:
        with path.open("rb") as file:
            digest = sha256()
            while piece := file.read(1 << 20):
                digest.update(piece)
    except OSError as error:
        raise ParameterInvalid(f"cannot read {path}: {error.strerror}") from error
    return digest.hexdigest()


# -- a data set --------------------------------------------------------------------------------------


def set_pairs(
    path: Path,
    primary: OfflineSession,
    candidate: OfflineSession,
    *,
    label: str,
    advanced: Callable[[int], None],
) -> Iterator[Judged]:
    """Both versions on the rows of a `.npz`. label: the array with the truth, where there is one.

    Raises ParameterInvalid.
    """
    inputs, truths = _read_set(path, primary.version, label)
    rows = len(inputs[0])
    for start in range(0, rows, CHUNK_ROWS):
        part = [array[start : start + CHUNK_ROWS] for array in inputs]
        first = _answered(primary, part, number=start)
        second = _answered(candidate, part, number=start)
        outcomes = []
        if truths is not None and first.fate is Fate.OK:
            part_truths = truths[start : start + CHUNK_ROWS].tolist()
            outcomes = [
                Outcome(first.prediction_id, row, label, value, 0, 0, first.model, "", 0)
                for row, value in enumerate(part_truths)
            ]
        pairs = [Pair(first, replace(second, shadow_of=first.prediction_id))]
        yield Judged(pairs if first.fate is Fate.OK else [], outcomes)
        advanced(min(start + CHUNK_ROWS, rows))


def _read_set(path: Path, version: ModelVersion, label: str) -> tuple[list[Array], Array | None]:
    try:
        with np.load(path, allow_pickle=False) as found:
            arrays = {name: found[name] for name in found.files}
    except (OSError, ValueError, BadZipFile) as error:
        raise ParameterInvalid(f"{path} is no .npz of plain arrays: {error}") from error
    inputs = []
    for wanted in version.inputs:
        given = arrays.get(wanted.name)
        if given is None:
            raise ParameterInvalid(f"{path} has no array {wanted.name!r}, an input of the model")
        array = np.ascontiguousarray(_typed(given, wanted.dtype))
        if not wanted.admits(array.shape):
            raise ParameterInvalid(
                f"{path}: {wanted.name} has shape {array.shape}, the model takes {wanted.shape}"
            )
        inputs.append(array)
    truths = arrays.get(label)
    if len({len(array) for array in (*inputs, *([] if truths is None else [truths]))}) != 1:
        raise ParameterInvalid(f"{path}: its arrays have different numbers of rows")
    return inputs, truths


def _typed(given: Array, dtype: np.dtype[Any]) -> Array:
    if dtype.kind == "O":
        return np.array([str(v).encode() for v in given.ravel().tolist()], object).reshape(
            given.shape
        )
    return given.astype(dtype)


# -- the primary against itself ----------------------------------------------------------------------


def repeated_pairs(records: Iterator[PredictionRecord], primary: OfflineSession) -> Iterator[Pair]:
    """Recorded answers and those of a second run of the same version on the same inputs."""
    wanted = [tensor.name for tensor in primary.version.inputs]
    for record in records:
        kept = {t.name: t.array for t in record.inputs if t.keeping == "kept"}
        is_whole = all(tensor.keeping == "kept" for tensor in record.outputs)
        if record.fate is not Fate.OK or record.shadow_of or not is_whole:
            continue
        if all(name in kept for name in wanted):
            inputs = [np.ascontiguousarray(kept[name]) for name in wanted]
            again = _answered(primary, inputs, number=record.sequence)
            yield Pair(record, replace(again, shadow_of=record.prediction_id))


def _answered(session: OfflineSession, inputs: Sequence[Array], *, number: int) -> PredictionRecord:
    version = session.version
    try:
        answers: Sequence[Array] = session.run(inputs)
        fate = Fate.OK
    except ModelFailed:
        answers, fate = (), Fate.MODEL_ERROR
    return _record(
        version,
        f"{_NO_LOG}-{number:x}",
        fate=fate,
        rows=len(inputs[0]) if version.batched else 1,
        inputs=_named(version.inputs, inputs),
        outputs=_named(version.outputs, answers),
    )


def _named(declared: Sequence[Any], arrays: Sequence[Array]) -> tuple[NamedTensor, ...]:
    pairs = zip(declared, arrays, strict=False)
    return tuple(NamedTensor(tensor.name, tensor.datatype, array) for tensor, array in pairs)


# -- the result of a replay --------------------------------------------------------------------------


class _Line(msgspec.Struct):
    """A line of a result; see `ledger.results`."""

    replay: ReplayHead | None = None
    prediction_id: str = ""
    failed: bool = False


def replay_head(path: Path) -> ReplayHead:
    """What was replayed, against what. Raises ParameterInvalid."""
    for line in _lines(path):
        head = msgspec.json.decode(line, type=_Line).replay
        if head is not None:
            return head
        break
    raise ParameterInvalid(f"{path} is no result of `serving replay` in JSON lines")


def replay_pairs(
    path: Path, primary: ModelVersion, known: Mapping[str, PredictionRecord]
) -> Iterator[Pair]:
    """Recorded and replayed answers of the primary's records.

    known: records of the ledger by id, for features that the result does not hold.
    """
    group: list[ReplayedRow] = []
    for line in _lines(path):
        kind = msgspec.json.decode(line, type=_Line)
        if kind.replay is not None or kind.failed:
            continue
        row = msgspec.json.decode(line, type=ReplayedRow)
        group.append(row)
        if row.row == row.rows - 1:
            if row.version == primary.version:
                yield _replayed(group, primary, known.get(row.prediction_id))
            group = []


def _replayed(
    rows: Sequence[ReplayedRow], primary: ModelVersion, known: PredictionRecord | None
) -> Pair:
    first = rows[0]
    before, after = (
        _record(
            primary,
            first.prediction_id,
            fate=Fate.OK,
            rows=len(rows),
            inputs=() if known is None else known.inputs,
            outputs=_rebuilt(primary, [getattr(row, side) for row in rows]),
            time_ns=first.time_ns,
            principal="" if known is None else known.principal,
        )
        for side in ("recorded", "replayed")
    )
    return Pair(before, replace(after, shadow_of=first.prediction_id))


def _rebuilt(version: ModelVersion, rows: Sequence[Mapping[str, Any]]) -> tuple[NamedTensor, ...]:
    """Outputs from their JSON; a long one, whose values the result leaves out, as not kept."""
    found = []
    for declared in version.outputs:
        values = [row.get(declared.name) for row in rows]
        if any(value is None for value in values):
            nothing = np.zeros((len(rows),), declared.dtype)
            found.append(NamedTensor(declared.name, declared.datatype, nothing, "truncated"))
            continue
        array = (
            _typed(np.array(values, object), declared.dtype)
            if declared.dtype == object
            else (np.array(values).astype(declared.dtype))
        )
        found.append(NamedTensor(declared.name, declared.datatype, array))
    return tuple(found)


def _lines(path: Path) -> Iterator[bytes]:
    try:
        with path.open("rb") as file:
            yield from file
    except (OSError, msgspec.DecodeError) as error:
        raise ParameterInvalid(f"cannot read {path}: {error}") from error


# -- records that no log holds -----------------------------------------------------------------------


def _record(
    version: ModelVersion,
    identifier: str,
    *,
    fate: Fate,
    rows: int,
    inputs: tuple[NamedTensor, ...],
    outputs: tuple[NamedTensor, ...],
    time_ns: int = 0,
    principal: str = "",
) -> PredictionRecord:
    return PredictionRecord(
        prediction_id=identifier, sequence=int(identifier.rpartition("-")[2], 16), time_ns=time_ns,
        fate=fate, reason="" if fate is Fate.OK else "model_error", principal=principal, request_id="",
        model=version.model, version=version.version, digest=version.digest, policy_epoch=0,
        inputs=inputs, outputs=outputs, rows=rows, queue_us=0, run_us=0, total_us=0, batch_id=0,
        batch_size=0, batch_position=0, trace_id="", shadow_of="",
    )  # fmt: skip
