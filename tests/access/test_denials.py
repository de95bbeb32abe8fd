"""Refusals are counted all and logged with measure."""

import structlog
from structlog.testing import capture_logs

from serving.access.denials import Denials
from serving.core.clock import ManualClock
from serving.core.principals import Action, Decision, Ground, Principal

WHY = Decision(False, Ground.DENIED, "r1", "rule r1 denies infer")
BOB = Principal("bob", frozenset(), tenant="acme")


def test_refused_action_names_who_what_and_which_rule(clock: ManualClock) -> None:
    """A line says what an auditor asks; the epoch tells which rules were in force."""
    structlog.reset_defaults()
    denials = Denials(clock)

    with capture_logs() as lines:
        denials.refuse_action(BOB, Action.INFER, "fraud", why=WHY, epoch=7)

    assert lines == [
        {
            "event": "access denied",
            "log_level": "warning",
            "subject": "bob",
            "tenant": "acme",
            "action": "infer",
            "model": "fraud",
            "ground": "denied",
            "rule": "r1",
            "epoch": 7,
        }
    ]
    assert denials.counts() == {Ground.DENIED: 1}


def test_flood_writes_a_few_lines_a_second_and_says_how_many_it_did_not(
    clock: ManualClock,
) -> None:
    """All are counted; the first line of a later second tells of those that were left out."""
    structlog.reset_defaults()
    denials = Denials(clock, lines_per_second=3)

    with capture_logs() as lines:
        for _ in range(1000):
            denials.refuse_action(BOB, Action.INFER, "m", why=WHY, epoch=1)
        clock.advance(1)
        denials.refuse_credential("expired")
        denials.refuse_credential("expired")

    assert [line["event"] for line in lines] == ["access denied"] * 3 + ["credential refused"] * 2
    assert [line.get("suppressed") for line in lines] == [None, None, None, 997, None]
    assert denials.counts() == {Ground.DENIED: 1000}
