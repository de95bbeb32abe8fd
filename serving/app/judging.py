"""Outcomes and the compared answers that they are about, brought together whenever either comes.

Answers wait in the store, those of the last moment in memory until they are saved; outcomes that came
first wait in memory, a bounded number of them. Each row of an answer is judged once, by the first report.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import msgspec

from serving.app.comparing import RunningComparison, WaitingAnswers
from serving.core.outcomes import Outcome
from serving.core.predictions import Fate
from serving.ledger.pairs import Pair
from serving.ledger.pairstore import Changes, PairStore, WaitingKey

MOST_EARLY: Final = 1000
"""Predictions of which there are outcomes, and no pair yet."""


class Judging:
    """Not for several threads."""

    def __init__(self, store: PairStore, *, early: Iterable[Outcome] = ()) -> None:
        """early: as `early` gave them when the state was saved."""
        self._store = store
        self._fresh: dict[WaitingKey, WaitingAnswers] = {}
        self._early: dict[str, list[Outcome]] = {}
        for outcome in early:
            self._early.setdefault(outcome.prediction_id, []).append(outcome)

    @property
    def early(self) -> list[Outcome]:
        return [outcome for known in self._early.values() for outcome in known]

    def add_pairs(self, comparison: RunningComparison, pairs: Sequence[Pair]) -> None:
        """Answers that wait from now on; those whose outcome is known are judged."""
        identity = comparison.sides.identity
        found: list[tuple[Outcome, WaitingAnswers]] = []
        for pair in pairs:
            answers = comparison.waiting(pair) if pair.candidate.fate is Fate.OK else None
            if answers is not None:
                identifier = pair.primary.prediction_id
                self._fresh[identifier, identity] = answers
                found += [(outcome, answers) for outcome in self._early.get(identifier, ())]
        comparison.add_outcomes(found)

    def add_outcomes(
        self, outcomes: Sequence[Outcome], comparisons: Mapping[str, RunningComparison]
    ) -> None:
        """comparisons: by identity."""
        if not outcomes:
            return
        stored = self._store.find(list(dict.fromkeys(each.prediction_id for each in outcomes)))
        found: dict[str, list[tuple[Outcome, WaitingAnswers]]] = {}
        for outcome in outcomes:
            is_pending = False
            for identity in comparisons:
                answers = self._answers((outcome.prediction_id, identity), stored)
                if answers is not None:
                    found.setdefault(identity, []).append((outcome, answers))
                else:
                    is_pending = True
            if is_pending:
                self._remember(outcome)
        for identity, judged in found.items():
            comparisons[identity].add_outcomes(judged)

    def into(self, changes: Changes) -> None:
        """What is to be saved; call `saved` once it is."""
        for key, answers in self._fresh.items():
            if answers.settled():
                changes.settled.add(key)
            else:
                changes.waiting[key] = msgspec.msgpack.encode(answers)

    def saved(self) -> None:
        self._fresh.clear()

    # -- inside ----------------------------------------------------------------------------------

    def _answers(
        self, key: WaitingKey, stored: Mapping[WaitingKey, bytes]
    ) -> WaitingAnswers | None:
        """What waits under this key, from now on in memory until it is saved."""
        if key not in self._fresh and key in stored:
            self._fresh[key] = msgspec.msgpack.decode(stored[key], type=WaitingAnswers)
        return self._fresh.get(key)

    def _remember(self, outcome: Outcome) -> None:
        known = self._early.setdefault(outcome.prediction_id, [])
        if outcome not in known:
            known.append(outcome)
        while len(self._early) > MOST_EARLY:
            del self._early[next(iter(self._early))]
