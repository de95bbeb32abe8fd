"""The list of events and the product agree: each name is written somewhere, under its own form."""

import ast
import re
from pathlib import Path

from serving.audit.events import EventName

PRODUCT = Path(__file__).resolve().parents[2] / "serving"


def used_names() -> set[str]:
    """Members that product code outside of their own module hands to the trail."""
    found = set()
    for path in PRODUCT.rglob("*.py"):
        if path.name == "events.py" and path.parent.name == "audit":
            continue
        nodes = ast.walk(ast.parse(path.read_text()))
        attributes = (node for node in nodes if isinstance(node, ast.Attribute))
        found |= {
            node.attr
            for node in attributes
            if isinstance(node.value, ast.Name) and node.value.id == "EventName"
        }
    return found


def test_every_event_is_written_by_a_real_path() -> None:
    """A name that nothing writes stays as a comment at most."""
    assert {event.name for event in EventName} - used_names() == set()


def test_every_event_is_named_source_subject_action() -> None:
    """In lower case, three words, each name once."""
    names = [event.value for event in EventName]

    assert [name for name in names if not re.fullmatch(r"[a-z_]+(:[a-z_]+){2}", name)] == []
    assert len(set(names)) == len(names)
