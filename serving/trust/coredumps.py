"""Keys and plaintext live in memory only: no core file may hold a copy of it."""

import resource


def no_core_dumps() -> None:
    """From now on, for this process and every child of it."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
