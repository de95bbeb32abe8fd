"""Open files: as many as the operating system grants, and never more connections than there are files.

The usual soft limit of 1,024 is far below the connections that a worker accepts. Running out of
descriptors hits whoever opens the next file, be it the prediction log: so connections, which are what
strangers can make many of, are refused before that.
"""

import resource
from typing import Final

import structlog

from serving.port_settings import HttpSettings

logger = structlog.get_logger()

RESERVED: Final = 256
"""For everything that is no caller's connection: the log, replicas, sockets, the interpreter."""


def take_descriptors() -> int:
    """Raises this process's soft limit of open files to the hard one. Returns it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == hard:
        return soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    return hard


def within_descriptors(limits: HttpSettings) -> HttpSettings:
    """The limits, with no more connections than can be open beside everything else."""
    most = take_descriptors()
    if most == resource.RLIM_INFINITY or limits.max_connections + RESERVED <= most:
        return limits
    affordable = max(most - RESERVED, 1)
    logger.warning("fewer connections", configured=limits.max_connections, affordable=affordable)
    return limits.model_copy(update={"max_connections": affordable})
