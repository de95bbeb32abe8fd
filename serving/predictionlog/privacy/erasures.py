"""Erasing data subjects: their keys are destroyed, and stay so when a backup is restored.

An erasure is first put on the erase list (tag and time, nothing else) and on every copy of it, then
all workers are told to forget the keys they remember (`generation`), then every key of the subject in
every key file is overwritten and synced. What was encrypted with them is bytes from then on: in the
log, in tables, in backups of either. Nothing that is signed changes.

A backup of the key files brings keys back. So the list is applied again by whoever opens a key file
to add to it, and by `reapply`: a key of a listed subject that was made before its erasure goes.
Keys of models that are on hold are spared until they are released; then `reapply` ends what was begun.

What no program can promise is what the disk does with the blocks that were overwritten. Where that
matters, the file system below must be encrypted, or the key secret (`keys/subjects`) renewed.
"""

import errno
import os
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

import msgspec

from serving.errors import LegalHold, NotReady
from serving.predictionlog.privacy.holds import Hold, Holds
from serving.predictionlog.privacy.subjects import (
    DESTROYED,
    SECRET_OFFSET,
    SLOT_BYTES,
    KeyFile,
    generation,
    key_files,
    model_mark,
)
from serving.trust.privatefiles import held

_LIST: Final = "erased.jsonl"
_NO_SECRET: Final = bytes(SLOT_BYTES - SECRET_OFFSET)


class Erasure(msgspec.Struct, frozen=True):
    """Every key with this tag (hexadecimal) that was made until then is to be destroyed."""

    tag: str
    erased_ns: int


@dataclass(frozen=True, slots=True)
class Erased:
    """What erasures did. spared: holds on models whose records of the subjects stay for now.

    by_tag: the same of each subject of which a key was destroyed, where there may be several.
    """

    keys: int
    spared: tuple[Hold, ...] = ()
    by_tag: "Mapping[str, Erased]" = field(default_factory=dict)


class Erasures:
    """The erase list and the key files of one data directory; any process may erase."""

    def __init__(self, folder: Path, *, copies: Sequence[Path] = ()) -> None:
        """folder: `<data_dir>/subjects`. copies: folders for copies of the list."""
        self._folder = folder
        self._lists = [folder / _LIST, *(copy / _LIST for copy in copies)]
        self._holds = Holds(folder)

    def listed(self) -> dict[str, int]:
        """Tag (hexadecimal) to when it was erased last, of all copies together. Raises OSError."""
        found: dict[str, int] = {}
        for path in self._lists:
            for erasure in _read(path):
                found[erasure.tag] = max(erasure.erased_ns, found.get(erasure.tag, 0))
        return found

    def erase(self, tag: str, *, now_ns: int) -> Erased:
        """Raises LegalHold when the subject is on hold, NotReady when nothing can be promised."""
        hold = self._holds.of_subject(tag)
        if hold is not None:
            raise LegalHold(f"the data subject is on hold since {hold.by} said: {hold.reason}")
        try:
            self._note(Erasure(tag, now_ns))
            self._tell()
            return self._destroy({tag: now_ns})
        except OSError as error:
            raise NotReady(f"the erasure is not complete, repeat it: {error.strerror}") from error

    def reapply(self) -> Erased:
        """Erases again whom the list names: after a backup was restored, or a hold released.

        Raises NotReady.
        """
        try:
            listed = self.listed()
            self._complete(listed)
            return self._destroy(listed) if listed else Erased(0)
        except OSError as error:
            raise NotReady(f"erasures cannot be applied again: {error.strerror}") from error

    def obey(self, path: Path) -> int:
        """Destroys in one key file what the list names; how many keys. Raises OSError."""
        held_models = {model_mark(hold.model) for hold in self._holds.listed() if hold.model}
        return self._destroy_in(path, self._unheld(self.listed()), held_models)[0].total()

    # -- in order --------------------------------------------------------------------------------

    def _note(self, erasure: Erasure) -> None:
        for path in self._lists:
            _append(path, [erasure])

    def _complete(self, listed: dict[str, int]) -> None:
        """Copies that lack an entry get it: one of them may be older than the others."""
        for path in self._lists:
            known = {(each.tag, each.erased_ns) for each in _read(path)}
            missing = [each for each in listed.items() if each not in known]
            if missing:
                _append(path, [Erasure(*each) for each in missing])

    def _tell(self) -> None:
        """Whoever remembers keys has to look at the files again."""
        path = self._folder / "generation"
        with held(path.with_suffix(".lock")):
            following = generation(self._folder) + 1
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
            try:  # In place: workers have it mapped.
                os.pwrite(descriptor, following.to_bytes(8, "little"), 0)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def _destroy(self, wanted: dict[str, int]) -> Erased:
        holds = {model_mark(hold.model): hold for hold in self._holds.listed() if hold.model}
        keys, spared = Counter[str](), dict[str, set[bytes]]()
        for path in key_files(self._folder):
            destroyed, passed = self._destroy_in(path, self._unheld(wanted), holds)
            keys += destroyed
            for tag, marks in passed.items():
                spared.setdefault(tag, set()).update(marks)
        self._tell()

        def held_back(marks: Iterable[bytes]) -> tuple[Hold, ...]:
            return tuple(holds[mark] for mark in sorted(marks))

        return Erased(
            keys.total(),
            held_back(set().union(*spared.values())),
            {tag: Erased(count, held_back(spared.get(tag, ()))) for tag, count in keys.items()},
        )

    def _unheld(self, wanted: dict[str, int]) -> dict[str, int]:
        subjects = {hold.subject for hold in self._holds.listed()}
        return {tag: at_ns for tag, at_ns in wanted.items() if tag not in subjects}

    def _destroy_in(
        self, path: Path, wanted: dict[str, int], held_models: Collection[bytes]
    ) -> tuple[Counter[str], dict[str, set[bytes]]]:
        """By tag: how many keys went, and the marks of models because of which some did not."""
        file = KeyFile(path)
        doomed, keys, spared = list[int](), Counter[str](), dict[str, set[bytes]]()
        for tag, erased_ns in wanted.items():
            for index, mark in file.living(bytes.fromhex(tag), made_until_ns=erased_ns):
                if mark in held_models:
                    spared.setdefault(tag, set()).add(mark)
                else:
                    doomed.append(index)
                    keys[tag] += 1
        if doomed:
            _overwrite(path, doomed)
        return keys, spared


def _overwrite(path: Path, indices: Iterable[int]) -> None:
    descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC)
    try:
        for index in indices:
            os.pwrite(descriptor, DESTROYED, index * SLOT_BYTES)
            os.pwrite(descriptor, _NO_SECRET, index * SLOT_BYTES + SECRET_OFFSET)
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _append(path: Path, erasures: Iterable[Erasure]) -> None:
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with held(path.with_suffix(".lock")):
        torn = path.exists() and path.read_bytes()[-1:] not in (b"", b"\n")
        lines = b"".join(msgspec.json.encode(each) + b"\n" for each in erasures)
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        try:
            content = (b"\n" if torn else b"") + lines
            if os.write(descriptor, content) != len(content):
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _read(path: Path) -> list[Erasure]:
    """A last line that a crash cut off was promised to nobody, and is passed over."""
    try:
        content = path.read_bytes()
    except FileNotFoundError:
        return []
    found = []
    for line in content.splitlines():
        try:
            found.append(msgspec.json.decode(line, type=Erasure))
        except msgspec.DecodeError:
            continue
    return found
