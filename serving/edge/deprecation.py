"""What callers of a version that will go are told with every answer, ready to be sent.

`Deprecation` (RFC 9745) since when, `Sunset` (RFC 8594) until when, and a `Link` to the successor with
the relation `successor-version` (RFC 5829). Made once per version and snapshot: an answer carries the
lines it would carry anyway, or these too.
"""

from collections.abc import Iterable
from email.utils import formatdate
from urllib.parse import quote

from serving.core.traffic import Deprecation

Lines = tuple[tuple[str, str], ...]


def lines_of(deprecation: Deprecation | None) -> Lines:
    """Names in lower case, and values; nothing for a version that stays."""
    if deprecation is None:
        return ()
    lines = [("deprecation", f"@{deprecation.since_s}")]
    if deprecation.sunset_s:
        lines.append(("sunset", formatdate(deprecation.sunset_s, usegmt=True)))
    if deprecation.successor:
        lines.append(("link", link_to(deprecation.successor)))
    return tuple(lines)


def by_key(deprecations: Iterable[Deprecation]) -> dict[str, Deprecation]:
    """By `model@version`."""
    return {f"{each.model}@{each.version}": each for each in deprecations}


def link_to(successor: str) -> str:
    """successor: `model@version`, or a model."""
    model, _, version = successor.partition("@")
    path = f"/v2/models/{quote(model, safe='')}"
    if version:
        path += f"/versions/{quote(version, safe='')}"
    return f'<{path}>; rel="successor-version"'
