"""What the monitor remembers, in one SQLite file: where it is in the log, and what it made of it.

Everything that one `commit` is given becomes durable together or not at all, so a monitor that is
killed at any instant goes on with records and results of the same moment: no pair counts twice, none is
lost. A power cut may take the last commits, and then both halves of them (write-ahead log, synchronous
NORMAL).
"""

import contextlib
import sqlite3
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from serving.errors import LogDamaged

_SCHEMA: Final = """
CREATE TABLE IF NOT EXISTS state (name TEXT PRIMARY KEY, content BLOB NOT NULL, at_ns INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS waiting (
  id INTEGER PRIMARY KEY, prediction TEXT NOT NULL, comparison TEXT NOT NULL, content BLOB NOT NULL
);
CREATE INDEX IF NOT EXISTS waiting_by_prediction ON waiting (prediction);
"""
_ASKED_AT_ONCE: Final = 500

WaitingKey = tuple[str, str]
"""Prediction id and comparison."""


@dataclass(slots=True)
class Changes:
    """What one commit writes. states: by name. waiting: added, or changed. settled: gone."""

    states: dict[str, bytes] = field(default_factory=dict)
    waiting: dict[WaitingKey, bytes] = field(default_factory=dict)
    settled: set[WaitingKey] = field(default_factory=set)


class PairStore:
    """Use it as a context manager; not for several threads."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._connection: sqlite3.Connection
        self._rows = 0

    def __enter__(self) -> Self:
        """Raises LogDamaged for a file that is none of ours, OSError."""
        self._path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._connection = sqlite3.connect(
            self._path, isolation_level=None, check_same_thread=False
        )
        try:
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = NORMAL")
            self._connection.executescript(_SCHEMA)
            (self._rows,) = self._connection.execute("SELECT count(*) FROM waiting").fetchone()
        except sqlite3.DatabaseError as error:
            self._connection.close()
            raise LogDamaged(
                f"{self._path} is damaged: {error}; remove it, and comparisons begin anew"
            ) from error
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._connection.close()

    @property
    def waiting(self) -> int:
        """How many answers wait for their outcomes."""
        return self._rows

    def state(self, name: str) -> bytes | None:
        row = self._connection.execute(
            "SELECT content FROM state WHERE name = ?", (name,)
        ).fetchone()
        return None if row is None else row[0]

    def find(self, predictions: Sequence[str]) -> dict[WaitingKey, bytes]:
        """What waits for outcomes of these predictions."""
        found: dict[WaitingKey, bytes] = {}
        for start in range(0, len(predictions), _ASKED_AT_ONCE):
            part = predictions[start : start + _ASKED_AT_ONCE]
            marks = ",".join("?" * len(part))
            query = (
                f"SELECT prediction, comparison, content FROM waiting WHERE prediction IN ({marks})"  # noqa: S608
            )
            for prediction, comparison, content in self._connection.execute(query, part):
                found[prediction, comparison] = content
        return found

    def commit(self, changes: Changes, *, now_ns: int, max_waiting: int) -> int:
        """Writes all of it; how many answers had to go unjudged. Raises OSError."""
        try:
            with self._transaction():
                self._write_states(changes.states, now_ns)
                self._remove([*changes.settled, *changes.waiting])
                self._connection.executemany(
                    "INSERT INTO waiting (prediction, comparison, content) VALUES (?, ?, ?)",
                    [(*key, content) for key, content in changes.waiting.items()],
                )
                self._rows += len(changes.waiting)
                return self._bound(max_waiting)
        except sqlite3.Error as error:
            raise OSError(f"{self._path}: {error}") from error

    def forget(self, before_ns: int, *, kept: Iterable[str]) -> None:
        """States that nobody wrote since, but for those named."""
        names = [(name,) for name in kept]
        with self._transaction():
            self._connection.execute("CREATE TEMP TABLE IF NOT EXISTS kept (name TEXT)")
            self._connection.execute("DELETE FROM kept")
            self._connection.executemany("INSERT INTO kept VALUES (?)", names)
            self._connection.execute(
                "DELETE FROM state WHERE at_ns < ? AND name NOT IN (SELECT name FROM kept)",
                (before_ns,),
            )

    # -- inside ----------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        rows = self._rows
        self._connection.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._rows = rows
            self._connection.execute("ROLLBACK")
            raise
        self._connection.execute("COMMIT")

    def _write_states(self, states: Mapping[str, bytes], now_ns: int) -> None:
        self._connection.executemany(
            "INSERT OR REPLACE INTO state (name, content, at_ns) VALUES (?, ?, ?)",
            [(name, content, now_ns) for name, content in states.items()],
        )

    def _remove(self, keys: Sequence[WaitingKey]) -> None:
        for key in keys:
            cursor = self._connection.execute(
                "DELETE FROM waiting WHERE prediction = ? AND comparison = ?", key
            )
            self._rows -= cursor.rowcount

    def _bound(self, max_waiting: int) -> int:
        surplus = max(self._rows - max_waiting, 0)
        if surplus:
            self._connection.execute(
                "DELETE FROM waiting WHERE id IN (SELECT id FROM waiting ORDER BY id LIMIT ?)",
                (surplus,),
            )
            self._rows -= surplus
        return surplus
