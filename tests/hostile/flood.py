"""Opens connections at a rate and keeps them: `python -m tests.hostile.flood PORT COUNT PER_S`.

A process of its own, so that the caller beside it has its interpreter for itself. Prints as JSON how
many were refused with an answer, and how many ended in silence.
"""

import json
import sys
import time

from tests.hostile.crowds import affordable, crowd, read_to_the_end


def main(port: int, count: int, per_s: int) -> None:
    affordable(count)
    started = time.monotonic()
    with crowd(port, count, per_s=per_s) as sockets:
        opened_s = time.monotonic() - started
        ended = read_to_the_end(sockets, within_s=20)
    refused = sum(b" 503 " in each.partition(b"\r\n")[0] for each in ended)
    silent = ended.count(b"")
    sys.stdout.write(json.dumps({"refused": refused, "silent": silent, "opened_s": opened_s}))


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
