import asyncio
import hashlib
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from serving.core.clock import SystemClock
from serving.core.models import Digest, ModelName, ModelVersion, Recording, VersionName
from serving.core.predictions import PredictionRecord
from serving.core.tensors import TensorSpecification
from serving.predictionlog.format import Definition, Flag, TensorShape, encode_definition
from serving.predictionlog.payloads import BodyInvalid, PayloadLimits
from serving.predictionlog.privacy.erasures import Erasures
from serving.predictionlog.privacy.subjects import PayloadKeys, SubjectSecrets
from serving.predictionlog.records import (
    decode_definition,
    decode_fixed,
    decode_prediction,
    definition_text,
    encode_predictions,
    encode_record,
)
from serving.predictionlog.writing.guards import Guard
from serving.predictionlog.writing.subjectkeys import WorkerKeys
from tests.logs import Request, facts

MIB = 1024 * 1024


def definition(treatment: str, *, columns: int = 2) -> Definition:
    return Definition(
        "doubler",
        "1",
        "ab" * 32,
        (
            TensorShape("x", "FP32", (columns,), (), treatment),
            TensorShape("words", "BYTES", (), (), treatment),
            TensorShape("open", "INT64", ()),
        ),
        (TensorShape("y", "FP32", (columns,), (), treatment),),
    )


def a_version(treatment: Any) -> ModelVersion:
    fields = tuple((name, treatment) for name in ("words", "x", "y"))
    return ModelVersion(
        ModelName("doubler"), VersionName("1"), Digest("ab" * 32),
        (TensorSpecification("x", "FP32", (-1, 2)),), (TensorSpecification("y", "FP32", (-1, 2)),),
        recording=Recording(fields=fields),
    )  # fmt: skip


def mixed(*, columns: int = 2) -> Request:
    """Two rows: numbers, words, and a tensor that every policy here keeps."""
    values = np.arange(2 * columns, dtype="<f4")
    words = b"\x03\0\0\0abc\x01\0\0\0d"
    whole = np.array([7, 8], "<i8").tobytes()
    return Request(5, (values.tobytes(), words, whole), ((2 * values).tobytes(),), rows=2)


@pytest.fixture
async def keys(tmp_path: Path) -> WorkerKeys:
    keys = WorkerKeys(
        tmp_path / "subjects",
        worker="gateway-0",
        secrets=SubjectSecrets.open(tmp_path / "keys"),
        erasures=Erasures(tmp_path / "subjects"),
        max_cached=10,
        clock=SystemClock(),
    )
    keys.start()
    return keys


async def recorded(
    root: Path,
    keys: WorkerKeys,
    *,
    treatment: Any = "keep",
    subject: bytes = b"",
    limits: PayloadLimits = PayloadLimits(),  # noqa: B008 -- frozen
) -> tuple[bytes, PredictionRecord]:
    """The frame of `mixed` under a policy, and what a reader makes of it."""
    described = definition(treatment)
    guard = Guard(a_version(treatment), keys, limits)
    payload = guard.payload(mixed(), subject=subject, definition=described, number=3)
    told: asyncio.Future[object] = asyncio.get_running_loop().create_future()
    keys.saved(told.set_result)
    assert await told is None
    frame = encode_record(facts(3), mixed(), payload)
    found = decode_prediction(
        frame, 0, definition=described, log_id="0" * 16, keys=PayloadKeys.at(root)
    )
    return frame, found


def shown(record: PredictionRecord) -> dict[str, tuple[str, list[Any]]]:
    return {
        tensor.name: (tensor.keeping, tensor.array.tolist())
        for tensor in (*record.inputs, *record.outputs)
    }


WHOLE = {
    "x": ("kept", [[0, 1], [2, 3]]),
    "words": ("kept", [b"abc", b"d"]),
    "open": ("kept", [7, 8]),
    "y": ("kept", [[0, 2], [4, 6]]),
}


@pytest.mark.parametrize("treatment", ["keep", "encrypt"])
@pytest.mark.parametrize("subject", [b"", b"ada"])
async def test_what_is_kept_or_encrypted_comes_back(
    tmp_path: Path, keys: WorkerKeys, treatment: str, subject: bytes
) -> None:
    """Under every combination of keeping and encrypting, with and without a subject, a reader with
    the keys gets exactly what was recorded; the subject shows as its tag."""
    frame, found = await recorded(tmp_path, keys, treatment=treatment, subject=subject)

    assert shown(found) == WHOLE
    assert found.subject == (keys.secrets.tag(subject).hex() if subject else "")
    assert (b"abc" in frame) == (treatment == "keep" and not subject)
    keys.close()


async def test_without_keys_it_stays_sealed_and_the_rest_can_be_read(
    tmp_path: Path, keys: WorkerKeys
) -> None:
    """A reader that is given no keys sees which tensors are sealed, and all that are not."""
    frame, _ = await recorded(tmp_path, keys, treatment="encrypt")

    found = decode_prediction(frame, 0, definition=definition("encrypt"), log_id="0" * 16)

    sealed: tuple[str, list[Any]] = ("sealed", [])
    assert shown(found) == {"x": sealed, "words": sealed, "open": WHOLE["open"], "y": sealed}
    keys.close()


async def test_a_hash_stands_for_a_row(tmp_path: Path, keys: WorkerKeys) -> None:
    """Hashes are by row, keyed, and differ between tensors; a dropped tensor leaves nothing."""
    frame, hashed = await recorded(tmp_path, keys, treatment="hash")
    _, dropped = await recorded(tmp_path, keys, treatment="drop")

    found = shown(hashed)
    assert [keeping for keeping, _ in found.values()] == ["hashed", "hashed", "kept", "hashed"]
    assert [len(each) for each in found["words"][1]] == [16, 16]
    assert len({*found["words"][1], *found["x"][1], *found["y"][1]}) == 6
    assert b"abc" not in frame
    assert shown(dropped)["x"] == ("dropped", [])
    keys.close()


@pytest.mark.parametrize("subject", [b"", b"ada"])
async def test_lg_17_what_is_too_large_is_recorded_as_its_hash(
    tmp_path: Path, keys: WorkerKeys, subject: bytes
) -> None:
    """LG-17: above `max_payload_bytes` each tensor is its SHA-256, marked truncated; at the limit
    it is whole."""
    size = len(b"".join((*mixed().inputs, *mixed().outputs)))
    _, whole = await recorded(tmp_path, keys, subject=subject, limits=PayloadLimits(size))
    _, cut = await recorded(tmp_path, keys, subject=subject, limits=PayloadLimits(size - 1))

    assert shown(whole) == WHOLE
    digests = [hashlib.sha256(each).digest() for each in (*mixed().inputs, *mixed().outputs)]
    assert list(shown(cut).values()) == [("truncated", [each]) for each in digests]
    keys.close()


@pytest.mark.parametrize(("rows", "compressed"), [(100, False), (40_000, True)])
def test_large_payloads_are_compressed_where_that_is_wanted(rows: int, compressed: bool) -> None:
    """Only payloads from the chosen size on are compressed, and they come back as they were."""
    described = Definition(
        "doubler", "1", "ab" * 32,
        (TensorShape("x", "FP32", (2,)),), (TensorShape("y", "FP32", (2,)),),
    )  # fmt: skip
    values = np.tile(np.array([1, 2], "<f4"), rows)
    request = Request(1, (values.tobytes(),), (values.tobytes(),), rows=rows)
    limits = PayloadLimits(64 * MIB, compress_bytes=64 * 1024)

    (frame,) = encode_predictions(replace(facts(3), limits=limits), [request])
    found = decode_prediction(frame, 0, definition=described, log_id="0" * 16)

    assert bool(decode_fixed(frame, 0).flags & Flag.COMPRESSED) == compressed
    assert (len(frame) < 2 * len(request.inputs[0])) == compressed
    assert found.outputs[0].array.tobytes() == values.tobytes()


def test_treatments_are_part_of_the_definition() -> None:
    """What was done to a tensor is said where its shape is said, and comes back from the file."""
    described = definition("hash")
    frame = encode_definition(9, definition_text(described), before=0)

    assert decode_definition(frame, 0) == (9, 0, described)


def test_a_flag_that_is_not_known_is_never_guessed_at() -> None:
    """A later program's flags make a record unreadable here, and nothing else."""
    (frame,) = encode_predictions(facts(3), [mixed()])
    changed = frame[:6] + b"\x40" + frame[7:]

    with pytest.raises(BodyInvalid):
        decode_prediction(changed, 0, definition=definition("keep"), log_id="0" * 16)
