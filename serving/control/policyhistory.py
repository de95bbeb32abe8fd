"""Which policy routed what: every policy that gateways were told, by the epoch it was in force from.

Each record of the prediction log names the epoch of the snapshot that routed it. Most epochs change
no policy (a replica came or went), so a line is written for each policy that is another one, before
gateways are told: a record never names an epoch that nothing is known of. Lines are only appended;
above `MAX_BYTES` the file becomes the older one of two, the new one begins with all policies in
force, and what was older still is forgotten. A line that was torn by a crash is passed over.
"""

import os
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Final

import msgspec
import structlog

from serving.core.clock import Clock
from serving.core.traffic import Snapshot, TrafficPolicy

logger = structlog.get_logger()

MAX_BYTES: Final = 16 * 1024 * 1024


class PolicyEntry(msgspec.Struct, frozen=True, kw_only=True):
    """A model's policy from an epoch on. policy: None when the model had none any more."""

    epoch: int
    at_ns: int
    model: str
    policy: TrafficPolicy | None


class PolicyEntries(msgspec.Struct, frozen=True):
    """Of one model, oldest first."""

    policies: tuple[PolicyEntry, ...]


class PolicyHistory:
    """The file of one instance. `note` and `of` may be called from different threads."""

    def __init__(self, path: Path, clock: Clock, *, max_bytes: int = MAX_BYTES) -> None:
        """path: of the newer file; the older one stands beside it with `.1` behind its name."""
        self._path = path
        self._older = path.with_name(path.name + ".1")
        self._clock = clock
        self._max_bytes = max_bytes
        self._held = threading.Lock()
        self._known: dict[str, TrafficPolicy] | None = None

    def note(self, snapshot: Snapshot) -> None:
        """Gateways are about to be told this."""
        with self._held:
            known = self._restored()
            now: dict[str, TrafficPolicy] = {each.model: each for each in snapshot.policies}
            changed = [
                model for model in known.keys() | now.keys() if known.get(model) != now.get(model)
            ]
            if changed:
                self._known = now
                self._write(snapshot.epoch, sorted(changed), now)

    def of(self, model: str, *, epoch: int | None = None) -> tuple[PolicyEntry, ...]:
        """All of a model, or the one that was in force in an epoch."""
        with self._held:
            found = [entry for entry in self._entries() if entry.model == model]
        if epoch is None:
            return tuple(found)
        return tuple([entry for entry in found if entry.epoch <= epoch][-1:])

    # -- inside ----------------------------------------------------------------------------------

    def _restored(self) -> dict[str, TrafficPolicy]:
        if self._known is None:
            self._known = {}
            for entry in self._entries():
                if entry.policy is None:
                    self._known.pop(entry.model, None)
                else:
                    self._known[entry.model] = entry.policy
        return self._known

    def _write(self, epoch: int, models: Iterable[str], now: dict[str, TrafficPolicy]) -> None:
        try:
            if self._path.exists() and self._path.stat().st_size > self._max_bytes:
                os.replace(self._path, self._older)  # noqa: PTH105 - one call, atomic on POSIX
                models = now.keys() | set(models)
            at_ns = self._clock.wall_ns()
            entries = [
                PolicyEntry(epoch=epoch, at_ns=at_ns, model=model, policy=now.get(model))
                for model in models
            ]
            # A line that was torn before gets its end, so that this one is whole.
            lines = b"\n" + b"".join(msgspec.json.encode(each) + b"\n" for each in entries)
            with self._path.open("ab") as file:
                file.write(lines)
        except OSError as error:
            # Traffic goes on: what is lost is the answer to a question about the past.
            logger.warning("a policy is not in the history", epoch=epoch, error=str(error))

    def _entries(self) -> Iterator[PolicyEntry]:
        decode = msgspec.json.Decoder(PolicyEntry).decode
        for line in [*_lines(self._older), *_lines(self._path)]:
            try:
                yield decode(line)
            except msgspec.DecodeError as error:
                logger.warning("a policy of the history cannot be read", error=str(error))


def _lines(path: Path) -> list[bytes]:
    try:
        return list(filter(None, path.read_bytes().splitlines()))
    except OSError:
        return []
