"""The rows of one model as its ledger shows them, made ready for questions across versions.

`open_answers` makes the view `read_rows`: the model's own view with two flags, `is_chosen` (the caller
chose the version) and `is_part` (of an ensemble), which tables from before these were recorded do not
have. The other functions find the columns that people name.
"""

from collections.abc import Sequence
from typing import Any, Final

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from serving.errors import NotFound, ParameterInvalid
from serving.ledger.joining import Join
from serving.ledger.sql import view_name

Floats = NDArray[np.float64]

ASKED: Final = "p.shadow_of IS NULL AND NOT p.is_part"
"""Of a row `p`: a caller was answered with it."""

_FLAGGED: Final = """
CREATE OR REPLACE TEMP VIEW read_rows AS
SELECT *, {chosen} AS is_chosen, {part} AS is_part FROM {view}
"""

TRUTH: Final = """
LEFT JOIN (
  SELECT prediction_id, row, any_value(number) AS truth FROM joined_truths
  WHERE place = 1 AND value <> 'null' AND model = {model} AND name = {outcome} GROUP BY ALL
) t ON t.prediction_id = p.prediction_id AND t.row = p.row
"""


def open_answers(join: Join, model: str) -> list[str]:
    """Makes `read_rows`, and says which columns the model has. Raises NotFound."""
    view = view_name(model)
    columns = join.columns(view)
    if not columns:
        raise NotFound(f"the ledger has no prediction of {model}")
    # Tables that were written before these columns existed have none of such records.
    chosen = "coalesce(chosen, false)" if "chosen" in columns else "false"
    part = "part_of IS NOT NULL" if "part_of" in columns else "false"
    join.define(_FLAGGED.format(chosen=chosen, part=part, view=quoted(view)))
    return columns


def check_columns(columns: Sequence[str], wanted: Sequence[str], model: str) -> None:
    missing = [name for name in wanted if name and name not in columns]
    if missing:
        raise ParameterInvalid(f"{model} has no column {missing[0]!r}")


def outcome_of(join: Join, model: str, outcome: str = "") -> str:
    """The outcome that is meant: the one that is named, or the only one that was reported."""
    names = join.names(model)
    if outcome or len(names) == 1:
        return outcome or names[0]
    known = ", ".join(names) or "none"
    raise ParameterInvalid(f"outcomes reported of {model}: {known}; name one with --outcome")


def score_of(join: Join, model: str, outcome: str, score: str = "") -> str:
    """The column that an outcome is compared with: the one that is named (with or without
    `output_`), else the output of the outcome's name. Raises NotFound, ParameterInvalid."""
    columns = open_answers(join, model)
    wanted = score or outcome
    for name in (wanted, f"output_{wanted}"):
        if name in columns:
            return name
    outputs = ", ".join(name.removeprefix("output_") for name in columns if name[:7] == "output_")
    raise ParameterInvalid(f"{model} has no output {wanted!r}, but {outputs}; name one (--score)")


def input_of(join: Join, model: str, feature: str) -> str:
    """The column of an input, with or without `input_`. Raises NotFound, ParameterInvalid."""
    columns = open_answers(join, model)
    for name in (feature, f"input_{feature}"):
        if name in columns:
            return name
    raise ParameterInvalid(f"{model} has no input or fact {feature!r} to look at by itself")


def floats(column: Any) -> Floats:
    """NaN for null."""
    found: Floats = column.cast(pa.float64()).to_numpy(zero_copy_only=False)
    return found


def flags(column: Any) -> NDArray[np.bool_]:
    """False for null."""
    found: NDArray[np.bool_] = column.fill_null(False).to_numpy(zero_copy_only=False)
    return found.astype(bool)


def quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def text(value: str) -> str:
    return "'" + value.replace("'", "''") + "'"
