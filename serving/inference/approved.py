"""What an order may run, verified before it is loaded and again while it runs.

`load` reads the release and the trusted keys as they are now, verifies signature, name, version, digest
and approvals, opens the sealed files and returns their bytes: those that were hashed are those that
will run, and they are nowhere but in memory. `verify` does the same later, but opens a stored file
again only when it was written anew. What it can find:

    ReleaseRefused       the version must not run any more: forged, withdrawn, expired, revoked
    ArtifactInvalid      what is stored is damaged; what runs is not, and nothing new can start
    anything else        nobody can say now: a disk or a key store is away

`ReleaseWatch` asks every `artifacts.verify_s`, in a thread of its own, and tells its owner.
"""

import threading
from collections.abc import Callable
from pathlib import Path
from typing import Final

import structlog

from serving.artifacts.bundles import Bundle
from serving.artifacts.locations import open_artifacts
from serving.artifacts.release import (
    Subject,
    VerifiedRelease,
    read_release,
    verify_release,
)
from serving.core.clock import Clock
from serving.errors import ArtifactInvalid, ReleaseRefused, ServingError, SignatureInvalid
from serving.inference.plans import ReplicaOrder
from serving.trust.installation import read_trusted

logger = structlog.get_logger()

JOIN_S: Final = 5.0


class ApprovedArtifact:
    """The artifact of one order. Used by one thread at a time."""

    def __init__(self, order: ReplicaOrder, clock: Clock) -> None:
        self._version = order.version
        self._release = Path(order.release)
        self._keys = Path(order.keys)
        self._clock = clock
        self._store = open_artifacts(
            order.effective_settings(),
            folder=Path(order.artifacts),
            keys_dir=self._keys,
            clock=clock,
        )
        self._stamps: dict[str, str] = {}

    def load(self) -> Bundle:
        """The files to run. Raises ReleaseRefused, ArtifactInvalid, KeyStoreUnavailable."""
        try:
            manifest = self._verified().manifest
            files = {path: self._opened(digest) for path, digest in manifest.digests.items()}
        except OSError as error:
            raise ArtifactInvalid(f"{self._version.key} cannot be read: {error}") from error
        return Bundle(manifest.entry, files)

    def verify(self) -> None:
        """Passes while the release holds and the stored files are as they were. Raises as above."""
        for digest in self._verified().manifest.digests.values():
            if self._store.stamp(digest) != self._stamps.get(digest):
                self._opened(digest)

    def _verified(self) -> VerifiedRelease:
        version = self._version
        try:
            return verify_release(
                read_release(self._release),
                read_trusted(self._keys),
                subject=Subject(version.model, version.version, version.digest),
                now_ns=self._clock.wall_ns(),
            )
        except (ReleaseRefused, SignatureInvalid) as error:
            raise ReleaseRefused(f"{version.key} may not run: {error.message}") from error

    def _opened(self, digest: str) -> bytes:
        stamp = self._store.stamp(digest)
        content = self._store.open(digest)
        self._stamps[digest] = stamp
        return content


class ReleaseWatch:
    """Verifies again and again. `start` begins, `stop` ends it; each finding is told once.

    refused: the version must stop. damaged: told, with the reason, when stored files cannot be
    loaded any more. Both run in the watch's thread.
    """

    def __init__(
        self,
        artifact: ApprovedArtifact,
        *,
        period_s: float,
        refused: Callable[[str], None],
        damaged: Callable[[str], None],
    ) -> None:
        self._artifact = artifact
        self._period_s = period_s
        self._refused = refused
        self._damaged = damaged
        self._found = ""
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="release-watch", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Safe to repeat, and before the start."""
        self._stopped.set()
        if self._thread.ident is not None and self._thread is not threading.current_thread():
            self._thread.join(JOIN_S)

    def _watch(self) -> None:
        while not self._stopped.wait(self._period_s):
            try:
                self._artifact.verify()
            except ReleaseRefused as error:
                self._refused(error.message)
                return
            except ArtifactInvalid as error:
                self._note(error.message, self._damaged)
            except (ServingError, OSError) as error:
                self._note(str(error), lambda reason: logger.warning("unverified", reason=reason))
            else:
                self._found = ""

    def _note(self, reason: str, tell: Callable[[str], None]) -> None:
        if reason != self._found:
            self._found = reason
            tell(reason)
