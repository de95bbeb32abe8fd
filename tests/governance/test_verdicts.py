"""Verdicts: signed, about two artifacts, and without one that says promote nothing is promoted."""

from pathlib import Path
from typing import Any

import msgspec
import pytest

from serving.core.calls import Call
from serving.core.principals import Role
from serving.edge.problems import STATUS
from serving.errors import (
    DigestChanged,
    Forbidden,
    ParameterInvalid,
    RequestInvalid,
    SeparationBroken,
    SignatureInvalid,
    StateConflict,
    TransitionRefused,
)
from serving.governance.comparisons import ComparisonReport, LogWindow, specification_of
from serving.governance.policies import BUILT_IN, EvidenceKind, Policies
from serving.governance.verdictbook import IssuedVerdict, VerdictOrder
from serving.governance.verdicts import read_verdict
from serving.ledger.pairs import PairCounts
from serving.monitoring.figures import Decision, Figure, Outcome
from serving.registry.lifecycle import State, Step
from serving.registry.orders import StateOrder, TrafficOrder
from serving.registry.shares import ArmOrder, ShadowOrder
from serving.trust.installation import read_trusted
from serving.trust.signatures import Envelope
from tests.governance.offices import AUTHOR, GRACE, IVAN, Office
from tests.registries import digest_of, person

ASKING = Policies(
    tiers={
        name: tier.model_copy(update={"promote": (EvidenceKind.VERDICT,)})
        for name, tier in BUILT_IN.tiers.items()
    }
)


def comparison(outcome: Outcome = "promote", **changes: Any) -> ComparisonReport:
    values: dict[str, Any] = {
        "model": "fraud",
        "primary": "1",
        "candidate": "2",
        "primary_digest": digest_of("1"),
        "candidate_digest": digest_of("2"),
        "source": "live",
        "specification": msgspec.to_builtins(specification_of({})),
        "specification_digest": specification_of({}).digest(),
        "decision": Decision(
            outcome=outcome,
            reasons=("because",),
            final=True,
            pairs=900,
            outcomes=0,
        ),
        "figures": (Figure(name="y.tolerance", n=900, estimate=0.01, low=0.0, high=0.02),),
        "counts": PairCounts(primaries=901, pairs=900, unpaired={"missing": 1}),
        "windows": (LogWindow(log_id="ab" * 8, first=1, last=2000, pairs=900, digest="0" * 64),),
    }
    return ComparisonReport(**(values | changes))


class Live:
    """Comparisons as the monitor would have reported them."""

    def __init__(self) -> None:
        self.report: ComparisonReport | None = None

    def latest(self, model: str, candidate: str) -> ComparisonReport | None:
        found = self.report
        return found if found is not None and found.key == (model, candidate) else None

    def of(self, model: str) -> tuple[ComparisonReport, ...]:
        return tuple(each for each in [self.report] if each is not None and each.model == model)


class Court(Office):
    """An office where version 1 answers and version 2 is its approved shadow."""

    def __init__(self, folder: Path, **options: Any) -> None:
        self.live = Live()
        super().__init__(folder, live=self.live, **options)
        self.register("2")
        for version in ("1", "2"):
            self.validate(version)
            self.decide(self.open(version=version), GRACE)
        self.route("1", shadows=("2",))

    def route(
        self, stable: str, *, shadows: tuple[str, ...] = (), arms: tuple[str, ...] = ()
    ) -> None:
        registry = self.governance.registry
        with self.database.transaction() as connection:
            seen = registry.traffic(connection, "fraud", actor=IVAN).revision
            wanted = TrafficOrder(
                stable=stable,
                shadows=tuple(ShadowOrder(version=each) for each in shadows),
                arms=tuple(ArmOrder(version=each, weight=0.1) for each in arms),
                reason="because",
            )
            registry.set_traffic(connection, "fraud", order=wanted, actor=IVAN, if_revision=seen)

    def issue(self, *, actor: Any = GRACE, **order: Any) -> IssuedVerdict:
        self.clock.advance(1)
        body = VerdictOrder(**{"candidate": "2", **order})
        found: IssuedVerdict = self.order(
            "issue", IssuedVerdict, actor=actor, body=body, model="fraud"
        )
        return found

    def states(self) -> tuple[str, str]:
        return self.version("1").state, self.version("2").state


@pytest.fixture
def court(tmp_path: Path) -> Court:
    return Court(tmp_path, policies=ASKING)


def test_p24_a_verdict_is_evidence_with_an_event(court: Court) -> None:
    """It states what the monitor found, is found again, and the trail says who asked for it."""
    court.live.report = comparison()
    issued = court.issue(reason="two weeks of shadow")
    listed = msgspec.json.decode(
        court.desk.ask("verdicts", Call(GRACE, arguments={"model": "fraud"})).content
    )["verdicts"]
    where = {"model": "fraud", "version": "2"}
    evidence = msgspec.json.decode(court.desk.ask("evidence", Call(GRACE, arguments=where)).content)

    assert (issued.verdict.outcome, issued.verdict.issuer) == ("promote", "grace")
    told = msgspec.json.encode(issued.verdict.comparison)
    assert told == msgspec.json.encode(court.live.report)
    assert [each["verdict"]["id"] for each in listed] == [issued.verdict.id]
    assert {each["kind"]: each["outcome"] for each in evidence["evidence"]}["verdict"] == "pass"
    assert court.events()[0] == "governance:verdict:issued"


def test_no_promotion_and_no_canary_without_a_verdict(court: Court) -> None:
    """409: where the tier asks for one, a share of the traffic takes it, and all of it too."""
    for wanted in ({"stable": "2"}, {"stable": "1", "arms": ("2",)}):
        with pytest.raises(TransitionRefused, match="verdict: there is none") as refused:
            court.route(**wanted)
        assert STATUS[refused.value.code] == 409
    court.live.report = comparison()
    court.issue()
    court.route("1", arms=("2",))
    court.route("2")

    assert court.states() == (State.APPROVED, State.STABLE)


def test_what_does_not_say_promote_lets_nothing_through(court: Court) -> None:
    """Also after an earlier one that did: the newest decides."""
    outcomes: tuple[Outcome, ...] = ("hold", "reject")
    for outcome in outcomes:
        court.live.report = comparison()
        court.issue()
        court.live.report = comparison(outcome)
        court.issue()

        with pytest.raises(TransitionRefused, match=f"says {outcome}: because"):
            court.route("2")


def test_a_verdict_runs_out(court: Court) -> None:
    """After the days of the tier another comparison is needed."""
    court.live.report = comparison()
    court.issue()
    court.clock.advance(31 * 86_400)

    with pytest.raises(TransitionRefused, match="has run out"):
        court.route("2")


def test_a_verdict_is_about_the_version_that_would_be_replaced(court: Court) -> None:
    """Compared with another artifact than the one that answers now, it says nothing."""
    court.live.report = comparison()
    court.issue()
    court.register("3")
    court.validate("3")
    court.decide(court.open(version="3"), GRACE)
    court.route("1", shadows=("3", "2"))
    court.live.report = comparison(candidate="3", candidate_digest=digest_of("3"))
    court.issue(candidate="3")
    court.route("3", shadows=("2",))

    with pytest.raises(TransitionRefused, match="there is none that compares it with fraud@3"):
        court.route("2")


def test_a_roll_back_needs_no_new_verdict(court: Court) -> None:
    """A version that was promoted once may come back, unless the newest verdict speaks against it."""
    court.live.report = comparison()
    court.issue()
    court.route("2")
    court.route("1")
    assert court.states()[0] == State.STABLE
    court.route("2")
    court.live.report = comparison(
        "reject", primary="2", candidate="1",
        primary_digest=digest_of("2"), candidate_digest=digest_of("1"),
    )  # fmt: skip
    court.issue(candidate="1")

    with pytest.raises(TransitionRefused, match="says reject"):
        court.route("1")


def test_taking_the_stable_version_away_is_no_way_round(court: Court) -> None:
    """The version that answered last is what a candidate is compared with."""
    court.route("")

    with pytest.raises(TransitionRefused, match="compares it with fraud@1"):
        court.route("2")


def test_rules_that_changed_make_it_void(court: Court) -> None:
    """A verdict counts under the specification that the model has, and only that is compared by."""
    court.live.report = comparison()
    court.issue()
    registry = court.governance.registry
    with court.database.transaction() as connection:
        facts = registry.model(connection, "fraud", actor=AUTHOR).facts
        stricter = msgspec.structs.replace(facts, comparison={"alpha": 0.01})
        registry.change_model(connection, "fraud", facts=stricter, actor=AUTHOR)

    with pytest.raises(TransitionRefused, match="another specification"):
        court.route("2")
    with pytest.raises(StateConflict, match="the model's own"):
        court.issue()


def test_rules_that_are_none_are_refused_where_they_come_in(court: Court) -> None:
    """A specification that cannot be followed never becomes a fact of the model."""
    registry = court.governance.registry
    with court.database.transaction() as connection:
        facts = registry.model(connection, "fraud", actor=AUTHOR).facts
        wrong = msgspec.structs.replace(facts, comparison={"alpha": 3})
        with pytest.raises(ParameterInvalid, match="alpha"):
            registry.change_model(connection, "fraud", facts=wrong, actor=AUTHOR)


def test_who_may_give_one(court: Court) -> None:
    """A live one is the monitor's word, so anybody who operates may ask; of what was handed in nobody
    judges their own work."""
    court.live.report = comparison()
    court.issue(actor=AUTHOR)
    with pytest.raises(Forbidden):
        court.issue(actor=person("mallory", Role.DEVELOPER))
    offline = comparison(source="offline", windows=())
    with pytest.raises(SeparationBroken):
        court.issue(actor=AUTHOR, comparison=offline)

    assert court.issue(actor=GRACE, comparison=offline).verdict.comparison.source == "offline"


CONTRADICTIONS: tuple[tuple[dict[str, Any], type[Exception]], ...] = (
    ({"source": "live"}, ParameterInvalid),
    ({"candidate": "1"}, ParameterInvalid),
    ({"candidate_digest": "0" * 64}, DigestChanged),
    ({"primary_digest": "0" * 64}, DigestChanged),
    ({"specification_digest": "0" * 64}, StateConflict),
    ({"specification": {"alpha": 0.4}}, ParameterInvalid),
    ({"source": "window", "counts": PairCounts(pairs=901)}, ParameterInvalid),
)


def test_what_contradicts_itself_is_not_signed(court: Court) -> None:
    """Other digests, rules or counts than it claims: refused before anything is signed."""
    for changes, error in CONTRADICTIONS:
        handed_in = comparison(**({"source": "offline"} | changes))
        with pytest.raises(error):
            court.issue(comparison=handed_in)

    assert "governance:verdict:issued" not in court.events()


def test_nothing_is_issued_of_nothing(court: Court) -> None:
    """Without a live comparison there is no live verdict."""
    with pytest.raises(StateConflict, match="is not being compared"):
        court.issue()


def test_evidence_of_another_kind_is_no_verdict(court: Court) -> None:
    """Nobody records a verdict as they record a report."""
    with pytest.raises(RequestInvalid, match="verdict"):
        court.record("verdict", version="2")


def _paths(value: object, at: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    if isinstance(value, dict):
        return [path for name in value for path in _paths(value[name], (*at, name))]
    if isinstance(value, list):
        return [path for place, each in enumerate(value) for path in _paths(each, (*at, place))]
    return [at]


def test_every_field_that_is_edited_is_found(court: Court) -> None:
    """Whatever is flipped in a verdict, offline verification refuses it; so do keys of no trust, and a
    signature over another type."""
    court.live.report = comparison()
    issued = court.issue()
    trusted = read_trusted(court.keys)
    plain = msgspec.json.decode(issued.envelope.payload)
    assert read_verdict(issued.envelope, trusted) == issued.verdict
    paths = _paths(plain)

    for path in paths:
        edited = msgspec.json.decode(issued.envelope.payload)
        inner = edited
        for name in path[:-1]:
            inner = inner[name]
        inner[path[-1]] = _other(inner[path[-1]])
        forged = msgspec.structs.replace(issued.envelope, payload=msgspec.json.encode(edited))
        with pytest.raises(SignatureInvalid):
            read_verdict(forged, trusted)

    assert len(paths) > 40
    other = Envelope(issued.envelope.payload, "text/plain", issued.envelope.signatures)
    with pytest.raises(SignatureInvalid, match="signed as 'text/plain', not as"):
        read_verdict(other, trusted)


def _other(value: Any) -> Any:
    if isinstance(value, bool):
        return not value
    if isinstance(value, int | float):
        return value + 1
    return f"{value}x" if isinstance(value, str) else 1


def test_an_edited_row_counts_for_nothing(court: Court) -> None:
    """A verdict that was copied onto another version is no evidence there."""
    court.live.report = comparison()
    court.issue()
    court.register("3")
    court.validate("3")
    court.decide(court.open(version="3"), GRACE)
    with court.database.transaction() as connection:
        connection.exec_driver_sql("UPDATE evidence SET version = '3' WHERE kind = 'verdict'")

    with pytest.raises(TransitionRefused, match="verdict: there is none"):
        court.route("3")


def test_the_first_version_has_nothing_to_beat(tmp_path: Path) -> None:
    """Where nothing ever answered, a verdict cannot be asked for; the approvals still are."""
    office = Office(tmp_path, policies=ASKING)
    office.validate()
    with (
        pytest.raises(TransitionRefused, match="1 more approval"),
        office.database.transaction() as c,
    ):
        office.governance.registry.change_state(
            c, ("fraud", "1"), order=StateOrder(step=Step.APPROVE), actor=GRACE
        )
    office.decide(office.open(), GRACE)
    with office.database.transaction() as connection:
        office.governance.registry.set_traffic(
            connection, "fraud", order=TrafficOrder(stable="1"), actor=IVAN, if_revision=0
        )

    assert office.version().state is State.STABLE
