"""What a verdict says of the log, counted again: the very same pairs, or a finding."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import msgspec

from serving.core.clock import ManualClock
from serving.core.predictions import Fate, PredictionRecord
from serving.governance.comparisons import LogWindow
from serving.ledger.pairs import Candidate, Pairing, PairingLimits, PairKey, Subject
from serving.ledger.recounting import Compared, recount
from serving.ledger.sampling import Sampling
from serving.ledger.selecting import PairSelection
from serving.ledger.tailing import Follower
from serving.predictionlog.format import Flag
from tests.ledger.pairlogs import DIGESTS, MODEL, Scribe

COMPARED = Compared(MODEL, "1", DIGESTS["1"], "2", DIGESTS["2"])


def written(root: Path) -> Scribe:
    """A log with 60 pairs and everything that is none."""
    scribe = Scribe(root / "gateway-0").open()
    for number in range(60):
        said = scribe.primary(number % 2)
        scribe.write(said, scribe.primary(fate=Fate.TIMEOUT))
        scribe.write(scribe.copy(said), scribe.copy(said, "3"))
        scribe.write(scribe.primary(kind=int(Flag.CHOSEN)), scribe.primary())
    return scribe


def window_of(root: Path, *, halvings: int = 0) -> LogWindow:
    """As the monitor would state it."""
    selection = PairSelection()
    subject = Subject(MODEL, "1", (Candidate("2"),))
    selection.follow({MODEL: subject})
    selection.samplings[MODEL] = Sampling(halvings=halvings)
    pairing = Pairing(PairingLimits())
    pairing.follow([subject])
    follower = Follower(root, {}, clock=ManualClock(), selection=selection)
    while events := follower.read(25):
        for event in events:
            if isinstance(event, PredictionRecord):
                pairing.take(event)
    ((log_id, found),) = pairing.windows[PairKey(MODEL, "1", "2")].items()
    return LogWindow(
        log_id=log_id,
        first=found.first,
        last=found.last,
        pairs=found.pairs,
        digest=found.digest,
        steps=tuple(selection.samplings[MODEL].steps[log_id]),
    )


def test_the_log_holds_what_was_compared(tmp_path: Path) -> None:
    """All pairs, or the share of them that was taken: counted without a key or a value."""
    written(tmp_path)
    for halvings in (0, 1):
        window = window_of(tmp_path, halvings=halvings)
        (found,) = recount(tmp_path, [window], COMPARED)

        assert (found.found, found.same, found.finding) == (window.pairs, True, "")
        assert (window.pairs == 60) == (halvings == 0)


def test_what_the_log_does_not_hold_is_found(tmp_path: Path) -> None:
    """Other pairs, more pairs, another artifact, another log: each is a finding in words."""
    written(tmp_path)
    window = window_of(tmp_path)

    def finding(compared: Compared = COMPARED, **changes: Any) -> str:
        (found,) = recount(tmp_path, [msgspec.structs.replace(window, **changes)], compared)
        return found.finding

    assert "other pairs" in finding(digest="1" * 64)
    assert "60 of the 61 pairs" in finding(pairs=61)
    assert "is not here" in finding(log_id="00" * 8)
    assert "0 of the 60" in finding(replace(COMPARED, candidate_digest="0" * 64))
    assert "0 of the 60" in finding(replace(COMPARED, candidate="3"))
    assert "of the 60 pairs" in finding(first=window.first + 10)
