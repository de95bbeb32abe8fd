"""Why a replica does not start, out of what Ray Serve says about it."""

from typing import Final

_OURS: Final = "serving.errors."


def cause_of(message: str) -> str:
    """The line that says why, out of a message of Serve's with tracebacks in it."""
    lines = [line.strip() for line in message.splitlines() if line.strip()]
    ours = [line for line in lines if line.startswith(_OURS)]
    if ours:
        return ours[-1].partition(": ")[2]
    return lines[-1] if lines else "no reason given"
