"""Data subjects: what stands for one in the log, the files of their keys, and how payloads are read.

A subject is never written down. What the log and the key files hold is its tag, a keyed hash. Every
gateway worker has a file of keys of its own and adds to it; a key is for one subject and one model,
and a subject has as many as workers, models and starts made. So nothing is coordinated, and erasing a
subject is to destroy every key with its tag (`erasures`). Nobody but the owner of a file adds to it;
whoever erases overwrites slots in place, whose size is fixed.

    <data_dir>/keys/subjects           the secret that all of this hangs on; keep it with the keys
    <data_dir>/subjects/<worker>.keys  slots of 128 bytes
    <data_dir>/subjects/generation     8 bytes; grows with each erasure, so that caches are dropped

SLOT, integers little-endian:

      0   4  magic 53 4B 59 31
      4   4  state: 1 in use, 2 destroyed
      8   8  when it was made, nanoseconds since 1970, UTC, signed
     16  16  tag of the subject, zeros for the key of a model's encrypted fields
     32   8  first bytes of the SHA-256 of the model's name
     40  16  key id
     56  12  nonce, 48 key, sealed with a key derived from the secret, bound to bytes 8 to 55
    116  12  zeros

A destroyed slot has zeros from 56 on. Torn slots (a crash while one was added) open with no key and
are passed over: no record was acknowledged that needs them.
"""

import hashlib
import secrets
import struct
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from serving.errors import StartFailed
from serving.trust.boxes import (
    KEY_BYTES,
    NONCE_BYTES,
    TAG_BYTES,
    BoxInvalid,
    BoxKey,
    derived,
    keyed_hash,
)
from serving.trust.privatefiles import read_or_create

KEY_NAME: Final = "subjects"
SUFFIX: Final = ".keys"
MAX_SUBJECT_BYTES: Final = 256
TAG_SIZE: Final = 16
NOBODY: Final = bytes(TAG_SIZE)
"""The tag of no subject: keys of encrypted fields."""

SLOT: Final = struct.Struct("<4sIq16s8s16s12s48s12x")
SLOT_BYTES: Final = SLOT.size
STATE: Final = struct.Struct("<4sI")
SECRET_OFFSET: Final = 56
_MAGIC: Final = b"SKY1"
_NO_SECRET: Final = bytes(NONCE_BYTES + KEY_BYTES + TAG_BYTES)
_DTYPE: Final = np.dtype(
    {
        "names": ["state", "made_ns", "tag", "model", "key"],
        "formats": ["<u4", "<i8", "V16", "V8", ">u8"],
        "offsets": [4, 8, 16, 32, 40],
        "itemsize": SLOT_BYTES,
    }
)

DESTROYED: Final = STATE.pack(_MAGIC, 2)


class SlotState(IntEnum):
    """Of a slot. Numbers are part of the format: never renumber."""

    IN_USE = 1
    DESTROYED = 2


class Slot(NamedTuple):
    """One key in its file, sealed."""

    magic: bytes
    state: int
    made_ns: int
    tag: bytes
    model: bytes
    key_id: bytes
    nonce: bytes
    sealed: bytes


@dataclass(frozen=True, slots=True, repr=False)
class SubjectSecrets:
    """What is derived from the one secret: the keys of tags, of field hashes, and of slots."""

    tags: bytes
    hashes: bytes
    slots: BoxKey

    @classmethod
    def open(cls, keys_dir: Path) -> "SubjectSecrets":
        """Made on first use. Raises StartFailed."""
        path = keys_dir / KEY_NAME
        content = read_or_create(path, lambda: secrets.token_hex(KEY_BYTES).encode())
        try:
            secret = bytes.fromhex(content.decode("ascii"))
        except ValueError as error:
            raise StartFailed(f"{path} does not hold a hexadecimal secret") from error
        if len(secret) != KEY_BYTES:
            raise StartFailed(f"{path} must hold {KEY_BYTES} bytes in hexadecimal")
        return cls(
            derived(secret, b"tags of data subjects"),
            derived(secret, b"hashes of fields"),
            BoxKey(derived(secret, b"slots of subject keys")),
        )

    def tag(self, subject: bytes) -> bytes:
        """What stands for a subject wherever anything is written."""
        return keyed_hash(self.tags, subject)

    def seal(self, key: BoxKey, *, tag: bytes, model: bytes, made_ns: int) -> bytes:
        """The slot of a key."""
        nonce = secrets.token_bytes(NONCE_BYTES)
        slot = Slot(_MAGIC, SlotState.IN_USE, made_ns, tag, model, key.id, nonce, b"")
        sealed = self.slots.seal(nonce, key.secret, _place(slot))
        return SLOT.pack(*slot[:-1], sealed)

    def unseal(self, content: bytes) -> BoxKey | None:
        """The key in a slot; None when it was destroyed, or never whole."""
        slot = Slot(*SLOT.unpack(content))
        if slot.magic != _MAGIC or slot.state != SlotState.IN_USE:
            return None
        try:
            key = BoxKey(self.slots.open(slot.nonce, slot.sealed, _place(slot)))
        except BoxInvalid:
            return None
        return key if key.id == slot.key_id else None


def _place(slot: Slot) -> bytes:
    return struct.pack("<q16s8s16s", slot.made_ns, slot.tag, slot.model, slot.key_id)


def model_mark(model: str) -> bytes:
    """What stands for a model in a slot."""
    return hashlib.sha256(model.encode()).digest()[:8]


def key_files(folder: Path) -> list[Path]:
    """The key files of all workers, sorted by name."""
    return sorted(folder.glob(f"*{SUFFIX}"))


class KeyFile:
    """The whole slots of one key file, as they were when it was opened."""

    def __init__(self, path: Path) -> None:
        """Raises OSError."""
        self.path = path
        content = path.read_bytes()
        self._content = content[: len(content) // SLOT_BYTES * SLOT_BYTES]
        self._slots = np.frombuffer(self._content, _DTYPE)
        self._order: NDArray[np.intp] = np.argsort(self._slots["key"], kind="stable")
        self._sorted: NDArray[np.uint64] = self._slots["key"][self._order]

    def __len__(self) -> int:
        return len(self._slots)

    def slot(self, index: int) -> bytes:
        return self._content[index * SLOT_BYTES : (index + 1) * SLOT_BYTES]

    def find(self, key_id: bytes) -> bytes | None:
        """The slot with this key, if there is one."""
        head = int.from_bytes(key_id[:8], "big")
        at = int(np.searchsorted(self._sorted, np.uint64(head)))
        while at < len(self._sorted) and int(self._sorted[at]) == head:
            slot = self.slot(int(self._order[at]))
            if slot[40:56] == key_id:
                return slot
            at += 1
        return None

    def living(self, tag: bytes, *, made_until_ns: int) -> list[tuple[int, bytes]]:
        """(index, model mark) of keys in use of this subject that were made by then."""
        slots = self._slots
        chosen = (
            (slots["tag"] == np.void(tag))
            & (slots["state"] == SlotState.IN_USE)
            & (slots["made_ns"] <= made_until_ns)
        )
        return [(int(at), bytes(slots["model"][at])) for at in np.flatnonzero(chosen)]


class Unreadable(NamedTuple):
    """Why a payload cannot be shown. erased: its key was destroyed; else it is not here."""

    erased: bool


class PayloadKeys:
    """Opens sealed payloads for readers. Follows erasures: a destroyed key opens nothing any more.

    One for a process is enough; not for use by several threads at a time.
    """

    def __init__(self, folder: Path, keys_dir: Path) -> None:
        """folder: `<data_dir>/subjects`."""
        self._folder = folder
        self._keys_dir = keys_dir
        self._secrets: SubjectSecrets | None = None
        self._files: list[KeyFile] = []
        self._known: dict[bytes, BoxKey | None] = {}
        self._seen = -1
        self._sizes: dict[Path, int] = {}

    @classmethod
    def at(cls, data_dir: Path) -> "PayloadKeys":
        """Of an instance; nothing is read before the first sealed payload is."""
        return cls(data_dir / "subjects", data_dir / "keys")

    def open(self, key_id: bytes, nonce: bytes, box: bytes, place: bytes) -> bytes | Unreadable:
        """The plain payload, or why there is none. Raises BoxInvalid for a box that was changed."""
        self._follow()
        if key_id not in self._known:
            self._known[key_id] = self._find(key_id)
        key = self._known[key_id]
        if key is not None:
            return key.open(nonce, box, place)
        return Unreadable(erased=self._holds(key_id))

    def tag(self, subject: str) -> str:
        """What records of a subject carry as `PredictionRecord.subject`. Raises StartFailed."""
        return self.secrets.tag(subject.encode()).hex()

    @property
    def secrets(self) -> SubjectSecrets:
        """Raises StartFailed."""
        if self._secrets is None:
            self._secrets = SubjectSecrets.open(self._keys_dir)
        return self._secrets

    def _follow(self) -> None:
        seen = generation(self._folder)
        if seen != self._seen:
            self._seen = seen
            self._load()

    def _load(self) -> None:
        self._known.clear()
        self._files = [KeyFile(path) for path in key_files(self._folder)]
        self._sizes = {file.path: len(file) * SLOT_BYTES for file in self._files}

    def _find(self, key_id: bytes) -> BoxKey | None:
        found = self._slot(key_id)
        if found is None and self._has_grown():
            self._load()
            found = self._slot(key_id)
        return None if found is None else self.secrets.unseal(found)

    def _slot(self, key_id: bytes) -> bytes | None:
        return next((slot for file in self._files if (slot := file.find(key_id))), None)

    def _holds(self, key_id: bytes) -> bool:
        return self._slot(key_id) is not None

    def _has_grown(self) -> bool:
        paths = key_files(self._folder)
        return any(
            path.stat().st_size // SLOT_BYTES * SLOT_BYTES != self._sizes.get(path, -1)
            for path in paths
        )


def generation(folder: Path) -> int:
    """How many erasures there were; 0 where there is no folder yet. Raises OSError."""
    try:
        return int.from_bytes((folder / "generation").read_bytes()[:8], "little")
    except FileNotFoundError:
        return 0
