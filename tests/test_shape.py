"""Budgets over the syntax tree, so that drift is seen on the day it happens."""

import ast
import re
from functools import cache
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).resolve().parents[1]
PRODUCT = sorted((ROOT / "serving").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))
MODULES = PRODUCT + TESTS + sorted((ROOT / "loadtests").rglob("*.py"))

MAX_MODULE_LINES = 500
MAX_TEST_LINES = 700
MAX_BODY_LINES = 50
P95_BODY_LINES = 30
BANNED = {
    "Manager",
    "Helper",
    "Util",
    "Utils",
    "Common",
    "Base",
    "Handler",
    "Data",
    "Info",
    "Process",
}
NAMED_BY_OTHERS = {
    *("DataDirectory", "DataDirectoryInUse", "DataShapeMismatch"),  # words of the interface
    *("ControlProcess", "ProcessDied", "ProcessSockets"),  # of the operating system
    "_LineHandler",  # is one, to the standard library's logging
}

Function = ast.FunctionDef | ast.AsyncFunctionDef


def body_lines(function: Function) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


class Outline(NamedTuple):
    """Of a module: whether it says what it is for, its functions with the lines of their bodies, and
    its classes. (Trees would make every collection of garbage a long one.)"""

    documented: bool
    functions: tuple[tuple[str, int], ...]
    classes: tuple[str, ...]


@cache
def outline(path: Path) -> Outline:
    """Made once: a tree takes long to make and long to walk."""
    tree = ast.parse(path.read_text())
    nodes = list(ast.walk(tree))
    return Outline(
        documented=bool(ast.get_docstring(tree)),
        functions=tuple((n.name, body_lines(n)) for n in nodes if isinstance(n, Function)),
        classes=tuple(n.name for n in nodes if isinstance(n, ast.ClassDef)),
    )


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_to_its_budget(path: Path) -> None:
    """It says what it is for, fits in one reading, and no function is longer than a screen."""
    lines = path.read_text().count("\n")

    long = [f"{name}: {n}" for name, n in outline(path).functions if n > MAX_BODY_LINES]
    assert long == []
    assert lines <= (MAX_TEST_LINES if path in TESTS else MAX_MODULE_LINES)
    assert path in TESTS or outline(path).documented


def test_most_functions_are_short() -> None:
    """Ninety-five of a hundred functions of the product have at most 30 lines of body."""
    lengths = sorted(n for path in PRODUCT for _, n in outline(path).functions)

    assert lengths[int(len(lengths) * 0.95)] <= P95_BODY_LINES


def test_no_name_is_made_of_empty_words() -> None:
    """Classes are named for what they are; modules never repeat the same empty words."""
    classes = {name for path in PRODUCT for name in outline(path).classes}
    vague = {name for name in classes if BANNED & set(re.findall("[A-Z][a-z]*", name))}
    modules = {path.stem for path in PRODUCT if path.stem.capitalize().rstrip("s") in BANNED}

    assert (vague - NAMED_BY_OTHERS, modules) == (set(), set())
