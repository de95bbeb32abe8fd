"""What turned out to be true of a row that a model had predicted."""

from dataclasses import dataclass

OutcomeValue = str | int | float | bool | None
"""The truth; None takes back what an earlier revision said."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One reported truth: the value `name` of row `row` of a prediction.

    model: whose prediction it is said to be; whether that is so shows when the two are joined.
    observed_ns: when the world decided it. reported_ns: when it was reported. Both are nanoseconds
    since 1970, UTC. revision: of several reports about the same (prediction, row, name), the one with
    the highest counts, and of equals the first.
    """

    prediction_id: str
    row: int
    name: str
    value: OutcomeValue
    observed_ns: int
    revision: int
    model: str
    principal: str
    reported_ns: int
