"""Who holds the keys that wrap data keys: a local file, or a key-management service.

Every object has a data key of its own, kept beside it wrapped. Only a key store can unwrap it, and
only under the name it was wrapped for. Rotation makes a new generation of the wrapping key; data keys
are wrapped again, payloads stay as they are, and older generations open what was wrapped under them.

A key management service is a command of yours (`artifacts.key_command`), run without a shell. It
reads one JSON object from standard input and writes one to standard output:

    {"verb": "wrap", "key": BASE64, "name": ...}          -> {"key_id": ..., "wrapped": BASE64}
    {"verb": "unwrap", "key_id": ..., "wrapped": BASE64, "name": ...}  -> {"key": BASE64}
    {"verb": "rotate"}                                    -> {"key_id": ...}

A command rather than an address: each vendor's own client authenticates and pins as it should, and
no URL of ours can be turned against the network. Keys travel through pipes only, never as arguments or
in the environment. What comes back is checked against a fingerprint kept with the wrapped key, so a
service that answers with another key is found out at once; a service that is down, slow or refuses is
KeyStoreUnavailable, and nothing is ever kept unsealed instead. `CachedKeyStore` bridges short
outages: what was unwrapped stays known for its life.
"""

import hashlib
import hmac
import secrets
import subprocess
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final, Protocol, TypeVar

import msgspec

from serving.core.clock import Clock
from serving.errors import CiphertextInvalid, KeyStoreUnavailable, StartFailed
from serving.trust.envelopes import KEY_BYTES, new_key, seal, unseal
from serving.trust.privatefiles import held, read_or_create, read_private, replace_private

FILE_NAME: Final = "artifact-keys.json"
MAX_ANSWER_BYTES: Final = 64 * 1024
MAX_CACHED: Final = 256

_CHECK: Final = b"serving data key 1\0"
_WRAPS: Final = "wrapped data key: "


class WrappedKey(msgspec.Struct, frozen=True):
    """A data key as it is kept. key_id: the generation that wraps it; check: its fingerprint."""

    key_id: str
    wrapped: bytes
    check: bytes


class KeyStore(Protocol):
    """All raise KeyStoreUnavailable when they cannot do it now, CiphertextInvalid for damage."""

    def wrap(self, key: bytes, *, name: str) -> WrappedKey: ...
    def unwrap(self, wrapped: WrappedKey, *, name: str) -> bytes: ...
    def rotate(self) -> str: ...


class _Generation(msgspec.Struct, frozen=True):
    key_id: str
    key: bytes

    def __repr__(self) -> str:
        return f"_Generation({self.key_id})"


Every = tuple[_Generation, ...]


class _Generations(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """The last one wraps; all of them unwrap."""

    generations: Every

    def encode(self) -> bytes:
        return msgspec.json.encode(self)


class LocalKeyStore:
    """Wrapping keys in one private file of the data directory.

    The file is read at each call: these are rare, and a rotation by another process is then seen.
    """

    def __init__(self, keys_dir: Path) -> None:
        self._path = keys_dir / FILE_NAME

    def wrap(self, key: bytes, *, name: str) -> WrappedKey:
        read_or_create(self._path, lambda: _Generations((_generation(),)).encode())
        current = self._generations()[-1]
        wrapped = seal(key, key=current.key, name=_WRAPS + name)
        return WrappedKey(current.key_id, wrapped, fingerprint(key))

    def unwrap(self, wrapped: WrappedKey, *, name: str) -> bytes:
        for each in self._generations():
            if each.key_id == wrapped.key_id:
                key = unseal(wrapped.wrapped, key=each.key, name=_WRAPS + name)
                return checked(key, wrapped)
        raise CiphertextInvalid(f"the wrapping key {wrapped.key_id!r} is not in the key store")

    def rotate(self) -> str:
        """Makes the next generation and returns its id; the older ones stay."""
        made = _generation()
        read_or_create(self._path, lambda: _Generations((_generation(),)).encode())
        self._change(lambda generations: (*generations, made))
        return made.key_id

    def forget(self, kept: str) -> tuple[str, ...]:
        """Destroys every generation but `kept` and returns their ids. What they wrap is lost."""
        before = self._change(lambda every: tuple(each for each in every if each.key_id == kept))
        return tuple(each.key_id for each in before if each.key_id != kept)

    def _change(self, change: Callable[[Every], Every]) -> Every:
        """Replaces the generations, unless none would be left; returns those of before."""
        try:
            with held(self._path.with_suffix(".lock")):
                before = self._generations()
                after = change(before)
                if not after:
                    raise CiphertextInvalid("a key store keeps at least one wrapping key")
                replace_private(self._path, _Generations(after).encode())
        except OSError as error:
            raise KeyStoreUnavailable("the key store cannot be written") from error
        return before

    def _generations(self) -> Every:
        try:
            content = read_private(self._path)
            generations = msgspec.json.decode(content, type=_Generations).generations
        except OSError as error:
            raise KeyStoreUnavailable("the key store cannot be read") from error
        except (msgspec.DecodeError, UnicodeDecodeError):
            # Not chained: the decoder's words could hold what it read.
            raise StartFailed(f"{self._path} is damaged") from None
        if not generations or any(len(each.key) != KEY_BYTES for each in generations):
            raise StartFailed(f"{self._path} is damaged")
        return generations


class _Wrapped(msgspec.Struct, frozen=True):
    key_id: str
    wrapped: bytes


class _Unwrapped(msgspec.Struct, frozen=True):
    key: bytes

    def __repr__(self) -> str:
        return "_Unwrapped()"


class _Rotated(msgspec.Struct, frozen=True):
    key_id: str


Answer = TypeVar("Answer")


class CommandKeyStore:
    """A key-management service behind a command; see the module docstring."""

    def __init__(self, command: Sequence[str], *, timeout_s: float) -> None:
        self._command = tuple(command)
        self._timeout_s = timeout_s

    def wrap(self, key: bytes, *, name: str) -> WrappedKey:
        made = self._ask({"verb": "wrap", "key": key, "name": name}, _Wrapped)
        return WrappedKey(made.key_id, made.wrapped, fingerprint(key))

    def unwrap(self, wrapped: WrappedKey, *, name: str) -> bytes:
        order: dict[str, str | bytes] = {
            "verb": "unwrap",
            "key_id": wrapped.key_id,
            "wrapped": wrapped.wrapped,
            "name": name,
        }
        return checked(self._ask(order, _Unwrapped).key, wrapped)

    def rotate(self) -> str:
        return self._ask({"verb": "rotate"}, _Rotated).key_id

    def _ask(self, order: Mapping[str, str | bytes], kind: type[Answer]) -> Answer:
        what = f"the key command, asked to {order['verb']!s},"
        try:
            done = subprocess.run(  # noqa: S603 - the operator's own command, without a shell
                self._command,
                input=msgspec.json.encode(order),
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,  # it may quote what it was given
                timeout=self._timeout_s,
                check=False,
            )
        except subprocess.TimeoutExpired:
            # Not chained: the exception holds what was sent and received.
            raise KeyStoreUnavailable(f"{what} gave no answer in {self._timeout_s:g} s") from None
        except OSError as error:
            raise KeyStoreUnavailable(f"{what} cannot be run: {error.strerror}") from error
        if done.returncode:
            raise KeyStoreUnavailable(f"{what} failed with status {done.returncode}")
        try:
            return msgspec.json.decode(done.stdout[:MAX_ANSWER_BYTES], type=kind)
        except (msgspec.DecodeError, UnicodeDecodeError):
            raise KeyStoreUnavailable(f"{what} gave an answer that is none") from None


class CachedKeyStore:
    """Remembers unwrapped keys for `life_s` seconds, so that an outage of the store can be bridged."""

    def __init__(self, store: KeyStore, *, life_s: float, clock: Clock) -> None:
        self._store = store
        self._life_ns = round(life_s * 1e9)
        self._clock = clock
        self._known: dict[tuple[WrappedKey, str], tuple[bytes, int]] = {}

    def wrap(self, key: bytes, *, name: str) -> WrappedKey:
        return self._store.wrap(key, name=name)

    def unwrap(self, wrapped: WrappedKey, *, name: str) -> bytes:
        now_ns = self._clock.monotonic_ns()
        key, until_ns = self._known.get((wrapped, name), (b"", 0))
        if key and now_ns < until_ns:
            return key
        self._known.pop((wrapped, name), None)
        key = self._store.unwrap(wrapped, name=name)
        while len(self._known) >= MAX_CACHED:
            del self._known[next(iter(self._known))]
        self._known[wrapped, name] = (key, now_ns + self._life_ns)
        return key

    def rotate(self) -> str:
        return self._store.rotate()


def fingerprint(key: bytes) -> bytes:
    """Tells two keys apart and nothing about either."""
    return hmac.digest(key, _CHECK, hashlib.sha256)


def checked(key: bytes, wrapped: WrappedKey) -> bytes:
    """`key`, when it is the one that was wrapped. Raises KeyStoreUnavailable."""
    if not hmac.compare_digest(fingerprint(key), wrapped.check):
        raise KeyStoreUnavailable("the key store answered with another key than was wrapped")
    return key


def _generation() -> _Generation:
    return _Generation(secrets.token_hex(8), new_key())
