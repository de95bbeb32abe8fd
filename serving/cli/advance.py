"""How far long work is, on standard error and only where a person looks: one line that is rewritten."""

import sys
from typing import Final, Self

from serving.core.clock import Clock

_PAUSE_NS: Final = 100_000_000
_WIDTH: Final = 30


class Advance:
    """Shows `done` of `total`; total None: not known. Entered, it is gone when the work is over."""

    def __init__(self, what: str, clock: Clock, *, total: int | None = None) -> None:
        """what: a noun, such as `reports`."""
        self._what = what
        self._clock = clock
        self._total = total
        self._shows = sys.stderr.isatty()
        self._began_ns = self._shown_ns = clock.monotonic_ns()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.end()

    def to(self, done: int) -> None:
        """Ten times a second at most, however often it is called."""
        now_ns = self._clock.monotonic_ns()
        if self._shows and now_ns - self._shown_ns >= _PAUSE_NS:
            self._shown_ns = now_ns
            self._write(self.line(done, now_ns))

    def end(self) -> None:
        """Takes the line away."""
        if self._shows:
            self._write("")

    def line(self, done: int, now_ns: int) -> str:
        elapsed_s = (now_ns - self._began_ns) / 1e9
        rate_per_s = done / elapsed_s if elapsed_s > 0 else 0.0
        counted = f"{done:,} {self._what}, {rate_per_s:,.0f}/s"
        if not self._total:
            return counted
        share = min(done / self._total, 1.0)
        filled = round(share * _WIDTH)
        bar = "#" * filled + "." * (_WIDTH - filled)
        left = f", {(self._total - done) / rate_per_s:,.0f} s left" if rate_per_s > 0 else ""
        return f"[{bar}] {share:.0%} {counted}{left}"

    def _write(self, text: str) -> None:
        sys.stderr.write(f"\r\x1b[K{text}")
        sys.stderr.flush()
