"""What retention took from the beginning of a log, signed: what tells kept long enough from lost.

`removed.json` in a writer's directory is a DSSE envelope around a `Removal`: every segment up to this
number went, and the one that follows names the last of them by this hash. It is on disk before the
last of them is deleted. A log that begins later than it did, without such a statement about just the
segment before its first one, was cut at its beginning; who has no key cannot make one, and an earlier
statement, or that of another log, does not fit.
"""

from pathlib import Path
from typing import Final

import msgspec

from serving.errors import SignatureInvalid
from serving.predictionlog.format import Previous, PreviousState, SegmentHeader
from serving.predictionlog.tree import Signer
from serving.trust.privatefiles import replace_private
from serving.trust.signatures import Envelope, TrustedKeys

REMOVAL_NAME: Final = "removed.json"
REMOVAL_TYPE: Final = "application/vnd.serving.log-removal+json"
_MAX_BYTES: Final = 64 * 1024


class Removal(msgspec.Struct, frozen=True):
    """All segments of a directory up to number `through` were removed.

    segments: how many, since the log began. previous_sha256: of the last one, as the header of its
    successor names it, hexadecimal. reason: such as `retention`. time_ns: wall clock, of the last.
    """

    directory: str
    through: int
    previous_sha256: str
    segments: int
    reason: str
    time_ns: int

    def explains(self, first: SegmentHeader, claim: Previous | None) -> bool:
        """Whether the log may begin with this segment. claim: what its successor says of it."""
        if first.number == self.through:  # Stated, and not deleted yet.
            return claim is not None and claim.sha256.hex() == self.previous_sha256
        before = first.previous
        return (before.number, before.sha256.hex()) == (self.through, self.previous_sha256)


def is_first(header: SegmentHeader) -> bool:
    """Whether there never was a segment before this one; what was gone already is told elsewhere."""
    return not header.previous.number or header.previous.state is PreviousState.UNKNOWN


def write_removal(directory: Path, removal: Removal, signer: Signer) -> None:
    """On disk when this returns. Raises OSError."""
    envelope = signer.sign(REMOVAL_TYPE, msgspec.json.encode(removal))
    replace_private(directory / REMOVAL_NAME, envelope.encode())


def read_removal(directory: Path, trusted: TrustedKeys | None) -> Removal | None:
    """None where nothing was removed. trusted None: whoever signed it. Raises SignatureInvalid."""
    try:
        with (directory / REMOVAL_NAME).open("rb") as file:
            envelope = Envelope.decode(file.read(_MAX_BYTES))
    except FileNotFoundError:
        return None
    try:
        removal = msgspec.json.decode(envelope.payload, type=Removal)
    except (msgspec.DecodeError, UnicodeDecodeError) as error:
        raise SignatureInvalid(f"no statement about removed segments: {error}") from error
    if trusted is not None:
        trusted.verify(envelope, payload_type=REMOVAL_TYPE, role="log", at_ns=removal.time_ns)
    return removal
