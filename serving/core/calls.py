"""One call of the control port as the control plane sees it: without HTTP, and with whoever makes it."""

from collections.abc import Mapping
from dataclasses import dataclass, field

from serving.core.actors import Actor


@dataclass(frozen=True, slots=True)
class Call:
    """arguments: named parts of the path. body: JSON as it came, empty for none.

    key: names the order, so that it is carried out once however often it is sent; empty for none.
    if_revision: of what the caller saw and wants to change; None when it does not matter.
    """

    actor: Actor
    arguments: Mapping[str, str] = field(default_factory=dict)
    query: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""
    key: str = ""
    if_revision: int | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """content: JSON unless `content_type` says otherwise. repeated: carried out at an earlier time."""

    content: bytes
    content_type: str = "application/json"
    repeated: bool = False
