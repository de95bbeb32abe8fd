"""Which names the files of an artifact may have: relative, plain, and different on every system.

A name is refused that could leave the artifact's folder (absolute, `..`, a drive, a backslash), that
some tool cannot show (control characters), or that another file of the same artifact has in another
case or Unicode form.
"""

import unicodedata
from collections.abc import Iterable
from pathlib import PurePosixPath
from typing import Final

MAX_FILES: Final = 1000
MAX_PATH_CHARACTERS: Final = 200


def check_paths(paths: Iterable[str]) -> None:
    """Raises ValueError that names the first path which is not permitted, or their number."""
    seen: dict[str, str] = {}
    for path in paths:
        reason = _refusal(path)
        if reason:
            raise ValueError(f"{path[:MAX_PATH_CHARACTERS]!r} {reason}")
        folded = unicodedata.normalize("NFC", path).casefold()
        if folded in seen:
            raise ValueError(f"{path!r} and {seen[folded]!r} are one name on some systems")
        seen[folded] = path
    if not 0 < len(seen) <= MAX_FILES:
        raise ValueError(f"an artifact has 1 to {MAX_FILES} files, not {len(seen)}")


def _refusal(path: str) -> str:
    if not 0 < len(path) <= MAX_PATH_CHARACTERS:
        return f"has more than {MAX_PATH_CHARACTERS} characters, or none"
    if any(unicodedata.category(each).startswith("C") for each in path):
        return "holds a control character"
    if "\\" in path or ":" in path:
        return "holds a backslash or colon"
    pure = PurePosixPath(path)
    if pure.is_absolute() or str(pure) != path or ".." in pure.parts or path == ".":
        return "is not a plain relative path"
    return ""
