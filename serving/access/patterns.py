"""Patterns over names: `*` stands for any text, everything else for itself, case included.

Matching takes time linear in the text for each part of the pattern, whatever either holds: nobody
can make a decision slow with a clever name.
"""

from typing import Final

ANY: Final = "*"
MAX_PATTERN_LENGTH: Final = 255


def pattern_is_valid(pattern: str) -> bool:
    """1 to 255 printable characters."""
    return 0 < len(pattern) <= MAX_PATTERN_LENGTH and pattern.isprintable()


def matches(pattern: str, text: str) -> bool:
    """Whether the whole of `text` fits `pattern`."""
    first, *rest = pattern.split(ANY)
    if not rest:
        return text == pattern
    *middle, last = rest
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    place, end = len(first), len(text) - len(last)
    for part in middle:
        place = text.find(part, place, end)
        if place < 0:
            return False
        place += len(part)
    return True
