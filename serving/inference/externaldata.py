"""Weights in files beside a model: they stay inside the artifact, or the model is rejected.

Four layers, each enough by itself, because a model file is somebody else's input (AR-07 to AR-09):

1. the name is a plain relative path, and a file of the artifact;
2. resolved, it lies inside the artifact's folder, which is given by an absolute path: an empty base
   would void the containment;
3. no part of the path is a symbolic link, and the file is opened without following one;
4. it is a regular file with one link.

Then each range must lie inside its file and overlap with no other tensor's, and say nothing else.
"""

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Final

from serving.artifacts.paths import check_paths
from serving.inference.reports import Rejected

KEYS: Final = frozenset({"location", "offset", "length", "checksum"})
EXTERNAL: Final = 1
"""`TensorProto.EXTERNAL`."""
_MOST_DIGITS: Final = 15


def check_external_data(folder: Path, tensors: Iterable[Any], entry: str) -> set[str]:
    """The paths, inside the artifact, of all files that tensors refer to. Raises Rejected.

    folder: of the artifact. entry: the model's file; what it names is relative to its own folder.
    """
    if not folder.is_absolute():
        raise Rejected("external_data", "the folder of an artifact must be absolute")
    home = Path(entry).parent
    ranges: dict[str, list[tuple[int, int, str]]] = {}
    for tensor in tensors:
        if tensor.data_location != EXTERNAL:
            continue
        location, offset, length = _where(tensor)
        path = str(home / location)
        size = _size(folder, path)
        end = size if length is None else offset + length
        if offset > size or end > size:
            raise _rejected(tensor, f"reaches beyond the end of {location[:200]!r}")
        ranges.setdefault(path, []).append((offset, end, tensor.name))
    for path, found in ranges.items():
        _refuse_overlaps(path, sorted(found))
    return set(ranges)


def _where(tensor: Any) -> tuple[str, int, int | None]:
    entries = [(each.key, each.value) for each in tensor.external_data]
    keys = [key for key, _ in entries]
    if len(set(keys)) != len(keys) or not set(keys) <= KEYS:
        raise _rejected(tensor, "has external data with fields that are unknown, or twice there")
    fields = dict(entries)
    location = fields.get("location", "")
    try:
        check_paths([location])
    except ValueError as error:
        raise _rejected(tensor, f"names a file that it must not: {error}") from error
    length = _number(tensor, fields["length"]) if "length" in fields else None
    return location, _number(tensor, fields.get("offset", "0")), length


def _number(tensor: Any, text: str) -> int:
    if not text.isascii() or not text.isdigit() or len(text) > _MOST_DIGITS:
        raise _rejected(tensor, f"has an offset or length that is none: {text[:32]!r}")
    return int(text)


def _size(folder: Path, path: str) -> int:
    """Of a regular file of our own inside the folder. Raises Rejected."""
    place = folder / path
    try:
        if not place.resolve(strict=True).is_relative_to(folder.resolve(strict=True)):
            raise Rejected("external_data", f"{path[:200]!r} lies outside the artifact")
        for part in _parts(folder, place):
            if part.is_symlink():
                raise Rejected("external_data", f"{path[:200]!r} goes through a symbolic link")
        descriptor = os.open(place, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        raise Rejected("external_data", f"{path[:200]!r} is no file of the artifact") from error
    try:
        found = os.fstat(descriptor)
    finally:
        os.close(descriptor)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink != 1:
        raise Rejected("external_data", f"{path[:200]!r} is no regular file with one link")
    return found.st_size


def _parts(folder: Path, place: Path) -> Iterator[Path]:
    yield place
    for parent in place.parents:
        if parent == folder:
            return
        yield parent


def _refuse_overlaps(path: str, ranges: list[tuple[int, int, str]]) -> None:
    reached = 0
    for start, end, name in ranges:
        if start < reached:
            raise Rejected("external_data", f"{name[:80]!r} shares bytes of {path[:200]!r}")
        reached = max(reached, end)


def _rejected(tensor: Any, what: str) -> Rejected:
    return Rejected("external_data", f"tensor {tensor.name[:80]!r} {what}")
