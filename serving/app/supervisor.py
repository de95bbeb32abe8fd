"""`serving up`: starts the processes, tells how far they are, keeps them running, ends them all.

Loads neither Ray nor a model, so it stays small and nothing that they do can take it down. The order
of a start is that of the dependencies, but nobody waits: control looks for the head, gateways for
control, until they find them. The order of a stop is that of the data path: gateways drain first,
then control, then the head, and at last whatever is left below this process.

    death of            what happens
    a gateway worker    started again; the others have the port meanwhile
    ledger, monitor     started again; nobody waits for them
    control             started again; replicas and gateways go on without it
    the head            Ray's leftovers are killed; head and control start again
    the supervisor      every child gets SIGTERM from the kernel

A child that refuses to start (`child.REFUSED`) or dies again and again ends a start with its reason;
once the instance was ready, children are started again for ever.
"""

import asyncio
import contextlib
import os
import shutil
import signal
import socket
from pathlib import Path
from typing import Final

import msgspec

from serving.access.keys import internal_secret
from serving.app.child import REFUSED, Refusal
from serving.app.children import Child
from serving.app.descendants import become_subreaper, kill_descendants, reap_adopted
from serving.app.directory import DataDirectory
from serving.app.introspection import Introspection
from serving.app.location import TEMPORARY_PREFIX, read_location
from serving.app.processes import CONTROL, HEAD, LEDGER, MONITOR, gateway_names, plan_children
from serving.app.progress import ChildDied, Progress, Starting, Stopped, Stopping
from serving.app.readiness import Watch
from serving.app.scrape import MetricsPort
from serving.app.summary import ready_summary
from serving.core.clock import Clock
from serving.errors import AddressInUse, StartFailed
from serving.settings import Settings
from serving.telemetry import logs
from serving.trust.coredumps import no_core_dumps

STOP_S: Final = 30.0
CONTROL_SHARE_S: Final = 8.0
HEAD_SHARE_S: Final = 5.0
KILL_SHARE_S: Final = 1.0
LOOK_S: Final = 0.1
SAME_REQUEST_S: Final = 0.3
HOUSEKEEPING_S: Final = 1.0
DEATHS_WHILE_STARTING: Final = 3
MAX_LOG_BYTES: Final = 16 * 1024 * 1024


class Supervisor:
    """One instance, from `run` being called until nothing of it is left."""

    def __init__(self, settings: Settings, *, progress: Progress, clock: Clock) -> None:
        self._directory = DataDirectory.at(settings.data_dir)
        # Children and printed commands know the directory by its absolute path.
        self._settings = settings.model_copy(update={"data_dir": self._directory.root})
        self._progress = progress
        self._clock = clock
        self._children: list[Child] = []
        self._failure: StartFailed | None = None
        self._starting = True
        self._asked = asyncio.Event()
        self._asked_ns = 0
        self._forced = False

    async def run(self) -> bool:
        """Runs until SIGINT or SIGTERM; says whether everything ended without force.

        A second SIGINT kills everything at once. Raises DataDirectoryInUse, AddressInUse,
        StartFailed; by then nothing is left running.
        """
        with self._directory.locked():
            check_ports(self._settings)
            self._prepare()
            try:
                # Standard output and error belong to whoever started this.
                with self._directory.process_log("supervisor").open("ab", buffering=0) as log:
                    level = self._settings.telemetry.log_level
                    logs.configure(process="supervisor", level=level, output=log)
                    return await self._run()
            finally:
                self._clear_ray()
                self._directory.clear_run()

    async def _run(self) -> bool:
        self._children = [
            Child(plan, exited=self._exited, clock=self._clock)
            for plan in plan_children(self._settings, self._directory)
        ]
        sockets = Introspection(self._sockets())
        metrics = MetricsPort(self._settings, sockets=sockets, children=self._children)
        await metrics.listen()
        self._take_signals()
        tasks = [asyncio.create_task(child.keep()) for child in self._children]
        tasks.append(asyncio.create_task(self._housekeep()))
        try:
            await self._serve(sockets)
        except StartFailed as error:
            self._progress.tell(Stopping("the start has failed"))
            folder = self._directory.logs
            if str(folder) in error.message:
                raise
            raise StartFailed(f"{error.message}; logs are in {folder}") from error
        finally:
            clean = await self._stop()
            await metrics.aclose()
            await sockets.aclose()
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
        return clean

    async def _serve(self, sockets: Introspection) -> None:
        """Until a signal. Raises StartFailed when it does not become ready."""
        self._progress.tell(
            Starting(
                data_dir=str(self._directory.root),
                engine=self._settings.inference.engine,
                processes=tuple(child.name for child in self._children),
            )
        )
        gateways = gateway_names(self._settings)
        watch = Watch(self._settings, sockets, gateways=gateways, clock=self._clock)
        await self._until_ready(watch)
        if watch.control is not None and not self._asked.is_set():
            self._starting = False
            self._progress.tell(
                ready_summary(self._settings, self._directory, watch.control, seconds=watch.seconds)
            )
        await self._asked.wait()
        self._progress.tell(Stopping("asked to"))

    async def _until_ready(self, watch: Watch) -> None:
        limit_s = self._settings.control.ready_timeout_s
        while not self._asked.is_set():
            for event in await watch.look():
                self._progress.tell(event)
            failure = self._failure or watch.failure()
            if failure is not None:
                raise failure
            if await watch.ready():
                return
            if watch.seconds > limit_s:
                raise StartFailed(
                    f"not ready within control.ready_timeout_s = {limit_s:g}: waiting for "
                    f"{watch.waiting_for}"
                )
            await self._pause(LOOK_S)

    async def _pause(self, seconds: float) -> None:
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._asked.wait(), seconds)

    # -- children --------------------------------------------------------------------------------

    def _exited(self, child: Child, status: int) -> None:
        """A child has died unasked; `Child` starts it again."""
        self._progress.tell(ChildDied(child.name, status, str(child.plan.log)))
        if self._starting and (status == REFUSED or child.restarts + 1 >= DEATHS_WHILE_STARTING):
            self._failure = self._failure or self._reason(child, status)
        if child.name == HEAD:
            # What the head started is worthless without it, and control is joined to that.
            kill_descendants(spared=self._pids())
            self._clear_ray()
            self._child(CONTROL).kill()

    def _reason(self, child: Child, status: int) -> StartFailed:
        try:
            content = self._directory.error_file(child.name).read_bytes()
            message = msgspec.json.decode(content, type=Refusal).message
        except (OSError, msgspec.DecodeError):
            message = f"it ended with status {status}: {last_line(child.plan.log)}"
        return StartFailed(f"{child.name}: {message}; see {child.plan.log}")

    def _child(self, name: str) -> Child:
        return next(child for child in self._children if child.name == name)

    def _pids(self) -> set[int]:
        return {pid for child in self._children if (pid := child.pid) is not None}

    async def _housekeep(self) -> None:
        while True:
            await asyncio.sleep(HOUSEKEEPING_S)
            reap_adopted(own=self._pids())
            self._directory.cut_logs(max_bytes=MAX_LOG_BYTES)

    # -- ending ----------------------------------------------------------------------------------

    def _take_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGTERM, self._ask)
        loop.add_signal_handler(signal.SIGINT, self._interrupt)

    def _ask(self) -> None:
        if not self._asked.is_set():
            self._asked_ns = self._clock.monotonic_ns()
            self._asked.set()

    def _interrupt(self) -> None:
        """A first Ctrl-C asks, a later one insists. What wraps us may send the first one twice."""
        waited_s = (self._clock.monotonic_ns() - self._asked_ns) / 1e9
        if self._asked.is_set() and waited_s > SAME_REQUEST_S:
            self._forced = True
            kill_descendants()
        self._ask()

    async def _stop(self) -> bool:
        """Ends everything within `STOP_S`, in the order of the data path."""
        self._starting = False
        self._ask()
        for child in self._children:
            child.leave_dead()
        began_ns = self._clock.monotonic_ns()
        self._directory.announce_stop()
        gateways = [child for child in self._children if child.name not in (CONTROL, HEAD)]
        control = [child for child in self._children if child.name == CONTROL]
        head = [child for child in self._children if child.name == HEAD]
        killed: list[str] = []
        for group, left_s in ((gateways, CONTROL_SHARE_S), (control, HEAD_SHARE_S), (head, 0.0)):
            spent_s = (self._clock.monotonic_ns() - began_ns) / 1e9
            grace_s = max(STOP_S - KILL_SHARE_S - left_s - spent_s, KILL_SHARE_S)
            ended = await asyncio.gather(*(child.stop(grace_s=grace_s) for child in group))
            killed += [child.name for child, clean in zip(group, ended, strict=True) if not clean]
        await self._sweep_up()
        seconds = (self._clock.monotonic_ns() - began_ns) / 1e9
        self._progress.tell(Stopped(round(seconds, 2), tuple(killed)))
        return not killed and not self._forced

    async def _sweep_up(self) -> None:
        """Kills and reaps whatever is still below this process, Ray's orphans included."""
        end_ns = self._clock.monotonic_ns() + round(KILL_SHARE_S * 1e9)
        while kill_descendants() and self._clock.monotonic_ns() < end_ns:
            reap_adopted(own=())
            await asyncio.sleep(0.01)

    # -- files -----------------------------------------------------------------------------------

    def _prepare(self) -> None:
        os.umask(0o077)
        no_core_dumps()
        become_subreaper()
        self._clear_ray()  # Of a supervisor that was killed.
        self._directory.prepare()
        internal_secret(self._directory.keys)
        self._directory.settings_file.write_text(self._settings.model_dump_json())

    def _sockets(self) -> dict[str, Path]:
        gateways = {
            name: self._directory.gateway_socket(index)
            for index, name in enumerate(gateway_names(self._settings))
        }
        return {
            CONTROL: self._directory.control_socket,
            LEDGER: self._directory.ledger_socket,
            MONITOR: self._directory.monitor_socket,
            **gateways,
        }

    def _clear_ray(self) -> None:
        """Keeps the logs of the embedded cluster, removes the rest of its folder."""
        location = read_location(self._directory.ray_file)
        self._directory.ray_file.unlink(missing_ok=True)
        if location is None or not Path(location.temporary).name.startswith(TEMPORARY_PREFIX):
            return
        kept = self._directory.logs / "ray"
        shutil.rmtree(kept, ignore_errors=True)
        with contextlib.suppress(OSError):
            shutil.move(Path(location.temporary) / "session_latest" / "logs", kept)
        shutil.rmtree(location.temporary, ignore_errors=True)


def last_line(log: Path) -> str:
    """What a process said last, for a message; empty when it said nothing."""
    with contextlib.suppress(OSError):
        lines = log.read_text(errors="replace").strip().splitlines()
        return lines[-1][:500] if lines else ""
    return ""


def check_ports(settings: Settings) -> None:
    """Refuses a port that somebody listens on already.

    Gateway workers share theirs, so without this a stale process would silently take a part of the
    connections. Raises AddressInUse.
    """
    places = {
        "http": (settings.http.host, settings.http.port),
        "grpc": (settings.grpc.host, settings.grpc.port),
        "metrics": (settings.metrics.host, settings.metrics.port),
        "control": (settings.control.host, settings.control.port),
    }
    for group, (host, port) in places.items():
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        with socket.socket(family, socket.SOCK_STREAM) as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((host, port))
            except OSError as error:
                raise AddressInUse(
                    f"{group}.port {port} on {host} cannot be used: {error.strerror}; choose "
                    f"another with --{group}-port or SERVING_{group.upper()}_PORT"
                ) from error
