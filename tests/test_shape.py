"""Budgets over the syntax tree, so that drift is seen on the day it happens."""

import ast
import re
from collections.abc import Iterator
from pathlib import Path

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


def functions(tree: ast.AST) -> Iterator[Function]:
    return (node for node in ast.walk(tree) if isinstance(node, Function))


def body_lines(function: Function) -> int:
    """Lines from the first statement after the docstring to the last."""
    body = function.body[1:] if ast.get_docstring(function, clean=False) else function.body
    return (body[-1].end_lineno or 0) - body[0].lineno + 1 if body else 0


@pytest.mark.parametrize("path", MODULES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_module_keeps_to_its_budget(path: Path) -> None:
    """It says what it is for, fits in one reading, and no function is longer than a screen."""
    text = path.read_text()
    tree = ast.parse(text)

    long = [f"{f.name}: {body_lines(f)}" for f in functions(tree) if body_lines(f) > MAX_BODY_LINES]
    assert long == []
    assert text.count("\n") <= (MAX_TEST_LINES if path in TESTS else MAX_MODULE_LINES)
    assert path in TESTS or ast.get_docstring(tree)


def test_most_functions_are_short() -> None:
    """Ninety-five of a hundred functions of the product have at most 30 lines of body."""
    lengths = sorted(
        body_lines(f) for path in PRODUCT for f in functions(ast.parse(path.read_text()))
    )

    assert lengths[int(len(lengths) * 0.95)] <= P95_BODY_LINES


def test_no_name_is_made_of_empty_words() -> None:
    """Classes are named for what they are; modules never repeat the same empty words."""
    classes = {
        node.name
        for path in PRODUCT
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    }
    vague = {name for name in classes if BANNED & set(re.findall("[A-Z][a-z]*", name))}
    modules = {path.stem for path in PRODUCT if path.stem.capitalize().rstrip("s") in BANNED}

    assert (vague - NAMED_BY_OTHERS, modules) == (set(), set())
