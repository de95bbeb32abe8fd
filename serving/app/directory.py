"""The data directory: where everything that the product writes lives, and who holds it.

    lock                    held by the supervisor; a second `serving up` is refused
    keys/                   the local issuer's key, the secret between our own processes, and the
                            pepper of API keys; refusals.jsonl: what took approvals back
    access.json             API keys, rules and revocations; access-uses.json: last uses of keys
    run/settings.json       effective settings, read by every child
    run/instance            names this run; replicas of an earlier one are not taken for ours
    run/ray.json            where the embedded Ray cluster answers, and its temporary folder
    run/<process>.error     why a child gave up, in one JSON object
    run/stopping            exists once the whole product stops
    run/socket_dir          where sockets are when `run` is too deep for a socket's path
    run/*.sock              introspection of each process; run/replicas/*.sock: frames
    log/gateway-<i>/        the prediction log of a worker
    ledger/                 tables of sealed segments (cold/), and where sinks go on
    monitor/                how far comparisons of candidates are
    uploads/                artifacts on their way in, sealed piece by piece
    inspections/            what is inspected just now; empty otherwise
    subjects/               keys of data subjects, the erase list, legal holds
    logs/<process>.log      what a child wrote to its standard output and error, in this run
    logs/replica-<model>@<version>.log
    policies.jsonl          every policy that gateways were told, by epoch
    snapshot-gateway-<i>.json, access-gateway-<i>.json: what each worker was told last

Folders have mode 0700, files 0600. A Unix socket's path has at most 107 bytes; when a path below
`run` would be longer, every socket moves to a short private folder instead.
"""

import contextlib
import fcntl
import os
import secrets
import shutil
import stat
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from serving.errors import DataDirectoryInUse, StartFailed

MAX_SOCKET_PATH_BYTES: Final = 107
LONGEST_SOCKET_NAME: Final = "replicas/" + "0" * 16 + ".sock"
FOLDER_MODE: Final = 0o700


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """Paths below one data directory. `root` is absolute."""

    root: Path

    @classmethod
    def at(cls, data_dir: Path) -> "DataDirectory":
        return cls(Path(os.path.abspath(data_dir.expanduser())))  # noqa: PTH100 - keeps symlinks

    @property
    def keys(self) -> Path:
        return self.root / "keys"

    @property
    def run(self) -> Path:
        return self.root / "run"

    @property
    def logs(self) -> Path:
        return self.root / "logs"

    @property
    def artifacts(self) -> Path:
        """Sealed artifacts by digest."""
        return self.root / "artifacts"

    @property
    def uploads(self) -> Path:
        """Artifacts on their way in, sealed."""
        return self.root / "uploads"

    @property
    def inspections(self) -> Path:
        """Private copies of artifacts while they are inspected; empty otherwise."""
        return self.root / "inspections"

    @property
    def releases(self) -> Path:
        """Why each version may run: what replicas verify."""
        return self.root / "releases"

    @property
    def refusals_file(self) -> Path:
        """What took consent back, for whom the database is not enough."""
        return self.keys / "refusals.jsonl"

    @property
    def settings_file(self) -> Path:
        return self.run / "settings.json"

    @property
    def ray_file(self) -> Path:
        return self.run / "ray.json"

    @property
    def ray_token_file(self) -> Path:
        return self.keys / "ray"

    @property
    def snapshot_file(self) -> Path:
        """What control published last, so that a restarted control forgets no replica."""
        return self.run / "snapshot.json"

    @property
    def policy_history(self) -> Path:
        """Every policy that gateways were told, by epoch; an older part stands beside it."""
        return self.root / "policies.jsonl"

    @property
    def instance(self) -> str:
        """The name that `prepare` gave this run."""
        return (self.run / "instance").read_text()

    @property
    def sockets(self) -> Path:
        """The folder of the sockets: `run`, or the short one recorded there by `prepare`."""
        try:
            return Path((self.run / "socket_dir").read_text())
        except FileNotFoundError:
            return self.run

    @property
    def control_socket(self) -> Path:
        return self.sockets / "control.sock"

    @property
    def ledger_socket(self) -> Path:
        return self.sockets / "ledger.sock"

    @property
    def monitor_socket(self) -> Path:
        return self.sockets / "monitor.sock"

    @property
    def monitor(self) -> Path:
        """What the monitor remembers."""
        return self.root / "monitor"

    @property
    def ledger(self) -> Path:
        """Cold data, where it lies on this machine, and what the ledger process remembers."""
        return self.root / "ledger"

    @property
    def log(self) -> Path:
        """The prediction logs of all workers."""
        return self.root / "log"

    @property
    def replica_sockets(self) -> Path:
        return self.sockets / "replicas"

    @property
    def final_stop(self) -> bool:
        """Whether the whole product stops, not just the process that asks."""
        return (self.run / "stopping").exists()

    def announce_stop(self) -> None:
        (self.run / "stopping").touch()

    def gateway_socket(self, index: int) -> Path:
        return self.sockets / f"gateway-{index}.sock"

    def prediction_log(self, index: int) -> Path:
        return self.root / "log" / f"gateway-{index}"

    @property
    def audit(self) -> Path:
        """Events that wait for the audit trail."""
        return self.root / "audit"

    @property
    def subjects(self) -> Path:
        """Keys of data subjects, the erase list and legal holds."""
        return self.root / "subjects"

    @property
    def quotas(self) -> Path:
        """What is left of everybody's quota; all workers of the node share it."""
        return self.root / "quotas"

    @property
    def concurrency(self) -> Path:
        """How many requests of callers with such a limit are inside; shared likewise."""
        return self.root / "concurrency"

    @property
    def quota_lock(self) -> Path:
        """Whoever holds it tells the other nodes what this one used."""
        return self.root / "quota-sharing.lock"

    def gateway_snapshot(self, index: int) -> Path:
        return self.root / f"snapshot-gateway-{index}.json"

    @property
    def access_file(self) -> Path:
        """The access state, owned by the control process."""
        return self.root / "access.json"

    def gateway_access(self, index: int) -> Path:
        return self.root / f"access-gateway-{index}.json"

    def process_log(self, process: str) -> Path:
        return self.logs / f"{process}.log"

    def error_file(self, process: str) -> Path:
        return self.run / f"{process}.error"

    @contextlib.contextmanager
    def locked(self) -> Iterator[None]:
        """Makes the directory if need be and holds it. Raises DataDirectoryInUse, StartFailed."""
        self._open_root()
        with (self.root / "lock").open("a+") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError as error:
                lock.seek(0)
                holder = lock.read(20).strip() or "unknown"
                raise DataDirectoryInUse(
                    f"data_dir {self.root} is in use by another `serving up` (process {holder}); "
                    "stop it, or choose another with --data-dir"
                ) from error
            lock.truncate(0)
            lock.write(f"{os.getpid()}\n")
            lock.flush()
            yield

    def prepare(self) -> None:
        """Empties what belongs to one run and makes the folders. Call it with the lock held."""
        self.clear_run()
        for log in self.logs.glob("*.log*"):
            log.unlink()
        for folder in (self.run, self.keys, self.logs):
            folder.mkdir(mode=FOLDER_MODE, exist_ok=True)
        (self.run / "instance").write_text(secrets.token_hex(4))
        longest = os.fsencode(self.run / LONGEST_SOCKET_NAME)
        if len(longest) > MAX_SOCKET_PATH_BYTES:
            (self.run / "socket_dir").write_text(tempfile.mkdtemp(prefix="serving-"))
        self.replica_sockets.mkdir(mode=FOLDER_MODE, exist_ok=True)

    def cut_logs(self, *, max_bytes: int) -> None:
        """Moves the content of logs that have grown too long aside, once; writers append on."""
        for log in self.logs.glob("*.log"):
            with contextlib.suppress(OSError):  # A full disk: the next look may succeed.
                if log.stat().st_size > max_bytes:
                    shutil.copyfile(log, log.with_suffix(".log.1"))
                    os.truncate(log, 0)

    def clear_run(self) -> None:
        """Removes what only a running instance needs: sockets, addresses, settings."""
        sockets = self.sockets
        if sockets != self.run:
            shutil.rmtree(sockets, ignore_errors=True)
        shutil.rmtree(self.run, ignore_errors=True)

    def _open_root(self) -> None:
        try:
            self.root.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
            mode = self.root.stat().st_mode
            if mode & (stat.S_IRWXG | stat.S_IRWXO):
                if any(self.root.iterdir()):
                    raise StartFailed(
                        f"data_dir {self.root} has mode {stat.S_IMODE(mode):04o}, so others on this "
                        f"machine can read it; `chmod 700 {self.root}` or choose another"
                    )
                self.root.chmod(FOLDER_MODE)
        except OSError as error:
            raise StartFailed(f"cannot use data_dir {self.root}: {error.strerror}") from error
