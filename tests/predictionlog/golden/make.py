"""Writes the golden files of the current format version; those of earlier versions stay as they are.

    python -m tests.predictionlog.golden.make

`numbers.segment` and `strings.segment` are made from fixed facts, so that the writer of today must
give the same bytes (`test_format`). `log/` is a whole directory as a bad day leaves it: a sealed
segment, one that a failed sync made suspect, and one whose writer was killed, with a torn tail.
Run it once for a new version, before it is released, and never again: a version whose golden files
change is another version.
"""

import errno
import shutil
import struct
from pathlib import Path
from typing import Final

from serving.core.elements import join_elements
from serving.core.outcomes import Outcome
from serving.core.predictions import Fate
from serving.predictionlog.format import (
    VERSION,
    Definition,
    Durability,
    Previous,
    PreviousState,
    SegmentHeader,
    TensorShape,
)
from serving.predictionlog.outcomes import encode_outcome
from serving.predictionlog.records import definition_text, encode_predictions
from serving.predictionlog.writing.segment import OpenSegment
from tests.logs import (
    DOUBLER,
    FAILED,
    NOW_NS,
    SIGNER,
    FaultyFiles,
    QuickFiles,
    a_committer,
    a_request,
    facts,
    frames_of,
    newest_segment,
)

GOLDEN: Final = Path(__file__).parent
LABELLER: Final = Definition(
    "labeller", "1", "cd" * 32,
    (TensorShape("text", "BYTES", (2,)), TensorShape("weight", "BF16", ())),
    (TensorShape("label", "BYTES", ()),),
)  # fmt: skip
TEXTS: Final = (b"a", b"", b"\xff\0", b"bc")
TAG: Final = 0x01020304
HEADER: Final = SegmentHeader(
    log_id=bytes.fromhex("00112233445566ff"),
    number=2,
    durability=Durability.FSYNC,
    first_sequence=11,
    begun_ns=NOW_NS,
    previous=Previous(1, PreviousState.SEALED, 4096, bytes(range(32))),
    nonce=b"nonce-08",
    tag=TAG,
)


TRUTH: Final = Outcome(
    prediction_id="00112233445566ff-b", row=1, name="y", value=24.0, observed_ns=NOW_NS - 5,
    revision=1, model="doubler", principal="tester", reported_ns=NOW_NS + 1,
)  # fmt: skip


def write_numbers(path: Path) -> None:
    """Three predictions in two commits, an empty one, one with an outcome, tree and seal."""
    definitions = {TAG << 32 | 1: definition_text(DOUBLER), TAG << 32 | 2: definition_text(FAILED)}
    answered, shadow, failed = a_request(11, rows=2), a_request(12), a_request(13)
    answered.trace_id, shadow.shadow_of, failed.outputs = bytes(range(16)), 11, ()
    segment = OpenSegment.create(QuickFiles(), path, durable=True)
    segment.begin(HEADER)
    segment.commit(
        encode_predictions(facts(TAG << 32 | 1), [answered, shadow]),
        definitions=definitions,
        next_sequence=14,
    )
    segment.commit(
        encode_predictions(
            facts(TAG << 32 | 2, fate=Fate.TIMEOUT, reason=b"deadline_exceeded"), [failed]
        ),
        definitions=definitions,
        next_sequence=14,
    )
    segment.commit([], definitions=definitions, next_sequence=14)
    segment.commit([encode_outcome(TRUTH, sequence=14)], definitions={}, next_sequence=15)
    segment.seal(next_sequence=15, sealed_ns=NOW_NS + 1, signer=SIGNER)


def write_strings(path: Path) -> None:
    """One prediction of two rows whose tensors are BYTES and BF16."""
    request = a_request(11, rows=2)
    request.inputs = (join_elements(TEXTS), struct.pack("<2H", 0x3F80, 0xC020))
    request.outputs = (join_elements([b"yes", b"no"]),)
    segment = OpenSegment.create(QuickFiles(), path, durable=True)
    segment.begin(HEADER)
    segment.commit(
        encode_predictions(facts(TAG << 32 | 1), [request]),
        definitions={TAG << 32 | 1: definition_text(LABELLER)},
        next_sequence=12,
    )
    segment.seal(next_sequence=12, sealed_ns=NOW_NS + 1, signer=SIGNER)


def write_log(directory: Path) -> None:
    """Records 1 to 9: 1 to 3 sealed, 4 and 5 suspect, 6 to 9 in a segment whose writer was killed."""
    committer = a_committer(directory)
    for first in (1, 2, 3):
        committer.sequence = first
        committer.commit(frames_of(first))
    committer.close()
    files = FaultyFiles()
    committer = a_committer(directory, files=files)
    committer.sequence = 5
    committer.commit(frames_of(4, 5))
    files.fail("write", errno.EIO)
    committer.sequence = 8
    committer.commit(frames_of(6, 7, 8))
    committer.sequence = 9
    committer.commit(frames_of(9))
    killed = newest_segment(directory)
    content = _without_room(killed) + b"torn"
    committer.close()
    killed.write_bytes(content)
    suspect = sorted(directory.glob("*.segment"))[1]
    suspect.write_bytes(_without_room(suspect))
    (directory / "lock").unlink()


def _without_room(segment: Path) -> bytes:
    return segment.read_bytes().rstrip(b"\0")


def main() -> None:
    folder = GOLDEN / f"v{VERSION}"
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    write_numbers(folder / "numbers.segment")
    write_strings(folder / "strings.segment")
    write_log(folder / "log")


if __name__ == "__main__":
    main()
