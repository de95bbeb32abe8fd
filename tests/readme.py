"""The tables of README that the code knows best: `python -m tests.readme` writes them anew.

A table stands between `<!-- NAME -->` and `<!-- end of NAME -->`. A test fails while one is stale.
"""

import ast
import re
from collections.abc import Iterator
from itertools import chain, groupby
from pathlib import Path
from typing import Any, Final

from pydantic import BaseModel
from pydantic_core import PydanticUndefined

from serving.audit.events import EventName
from serving.gateway_settings import QuotaRule
from serving.settings import Deployment, Settings
from serving.telemetry import comparison_families, families, ledger_families, replicas
from serving.telemetry.metrics import Definition

ROOT: Final = Path(__file__).resolve().parents[1]
README: Final = ROOT / "README.md"
LISTS: Final[dict[str, tuple[str, type[BaseModel]]]] = {
    "deployments": ("deployments", Deployment),
    "quotas": ("quotas[]", QuotaRule),
}
"""Settings that are lists of groups: how their fields are named, and the group."""

Row = tuple[str, ...]


def tables() -> dict[str, str]:
    """By name, as README should have them."""
    return {
        "settings": _table(("setting", "default", "meaning"), _settings()),
        "metrics": _table(("metric", "labels", "meaning"), _metrics()),
        "events": _table(("source", "what happened"), _events()),
    }


def with_tables(text: str) -> str:
    """`text` with every table as it should be. Raises ValueError when one has no place."""
    for name, table in tables().items():
        pattern = rf"(?s)(<!-- {name} -->\n).*?(<!-- end of {name} -->)"
        place = re.search(pattern, text)
        if place is None:
            raise ValueError(f"README has no place for the table {name}")
        text = f"{text[: place.end(1)]}\n{table}\n{text[place.start(2) :]}"
    return text


def _table(heads: Row, rows: Iterator[Row]) -> str:
    lines = [heads, ("---",) * len(heads), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def _settings() -> Iterator[Row]:
    meanings = _meanings()
    for name, field in Settings.model_fields.items():
        group: Any = field.annotation
        if name in LISTS:
            prefix, group = LISTS[name]
            meaning = f"{_meaning(meanings, Settings, name)} Each has the fields below."
            yield f"`{name}`", "the demo models" if field.default else "none", meaning
        elif isinstance(group, type) and issubclass(group, BaseModel):
            prefix = name
        else:
            yield f"`{name}`", _default(field.default), _meaning(meanings, Settings, name)
            continue
        for inner, each in group.model_fields.items():
            default = each.get_default(call_default_factory=True)
            yield f"`{prefix}.{inner}`", _default(default), _meaning(meanings, group, inner)


def _metrics() -> Iterator[Row]:
    modules = (families, replicas, ledger_families, comparison_families)
    for each in chain.from_iterable(vars(module).values() for module in modules):
        if isinstance(each, Definition):
            yield f"`{each.name}`", ", ".join(each.labels) or "none", each.documentation


def _events() -> Iterator[Row]:
    for source, names in groupby(EventName, key=lambda name: name.partition(":")[0]):
        yield source, ", ".join(f"`{name.partition(':')[2]}`" for name in names)


def _meanings() -> dict[tuple[str, str], str]:
    """What stands under each field of each class in the modules of settings."""
    found: dict[tuple[str, str], str] = {}
    for file in sorted((ROOT / "serving").glob("*settings.py")):
        for node in ast.parse(file.read_text()).body:
            if isinstance(node, ast.ClassDef):
                found |= {(node.name, name): text for name, text in _fields(node)}
    return found


def _fields(node: ast.ClassDef) -> Iterator[tuple[str, str]]:
    for field, below in zip(node.body, node.body[1:], strict=False):
        match field, below:
            case (
                ast.AnnAssign(target=ast.Name(id=name)),
                ast.Expr(value=ast.Constant(value=str(text))),
            ):
                yield name, " ".join(text.split())
            case _:
                pass


def _meaning(meanings: dict[tuple[str, str], str], group: type[BaseModel], field: str) -> str:
    for kind in group.__mro__:
        if text := meanings.get((kind.__name__, field)):
            return text.replace("|", "\\|")
    raise ValueError(f"{group.__name__}.{field} does not say what it means")


def _default(value: object) -> str:
    if value is PydanticUndefined:
        return "required"
    if value is None or value in ((), {}, ""):
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int) and value >= 2**16 and value % 2**10 == 0:
        unit, size = next(each for each in _UNITS if value % each[1] == 0)
        return f"{value} ({value // size} {unit})"
    return ", ".join(map(str, value)) if isinstance(value, tuple) else str(value)


_UNITS: Final = (("GiB", 2**30), ("MiB", 2**20), ("KiB", 2**10))


if __name__ == "__main__":
    README.write_text(with_tables(README.read_text()))
