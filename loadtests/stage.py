"""Where `loadtests.story` is played: an instance of its own, the command line, and a narrator.

The instance is `serving up` with a data directory and ports of its own and nothing of the caller's
settings. A verb is run in this process, as `serving VERB …` would run it, and shown as somebody would
type it: half a minute of imports is saved over the whole story.
"""

import io
import json
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from pathlib import Path
from typing import Any, Final, TextIO, TypeVar

import yaml

from loadtests.children import LOOPBACK, running
from loadtests.ports import free_ports
from serving.access.issuer import LocalIssuer
from serving.cli import app
from serving.core.clock import Clock
from serving.core.principals import Role
from serving.errors import ServingError
from serving.settings import AccessSettings

PORTS: Final = ("http", "grpc", "metrics", "control")
START_S: Final = 180.0
GRACE_S: Final = 40.0
LOOK_S: Final = 0.2
HOUR_S: Final = 3600.0
INDENT: Final = "    "

Answer = TypeVar("Answer")


class StoryFailed(Exception):
    """Something did not happen as the story tells it."""


class Stage:
    """The instance that runs, seen by an operator. `at` gives one."""

    def __init__(self, folder: Path, ports: dict[str, int], *, clock: Clock, out: TextIO) -> None:
        """out: where the narrator writes."""
        self.url = f"http://{LOOPBACK}:{ports['http']}"
        self.folder = folder
        self.data_dir = folder / "data"
        self.clock = clock
        self._out = out
        self._began_ns = clock.monotonic_ns()

    @property
    def now_s(self) -> float:
        """Since the story began."""
        return (self.clock.monotonic_ns() - self._began_ns) / 1e9

    # -- the narrator ----------------------------------------------------------------------------

    def chapter(self, title: str, words: str) -> None:
        self._write(f"\n[{self.now_s:5.1f} s] {title}\n{words}\n")

    def tell(self, words: str) -> None:
        self._write(f"{INDENT}{words}\n")

    # -- the command line ------------------------------------------------------------------------

    def serving(self, *arguments: str, shown: bool = True, quiet: bool = False) -> str:
        """What a verb writes. quiet: what it wrote is not shown. Raises StoryFailed."""
        try:
            written = self._run(arguments, shown=shown)
        except ServingError as error:
            raise StoryFailed(f"serving {' '.join(arguments)}: {error.message}") from error
        if shown and not quiet:
            self._quote(written)
        return written

    def facts(self, *arguments: str, shown: bool = False) -> Any:
        """What a verb says with --json."""
        return json.loads(self.serving(*arguments, "--json", shown=shown, quiet=True))

    def refused(self, *arguments: str) -> str:
        """Why a verb is refused. Raises StoryFailed when it is not."""
        try:
            self._run(arguments, shown=True)
        except ServingError as error:
            self._quote(f"serving: {error.message}")
            return error.message
        raise StoryFailed(f"serving {' '.join(arguments)} was not refused")

    def token(self, subject: str, role: Role) -> str:
        issuer = LocalIssuer.open(self.data_dir / "keys", AccessSettings(), self.clock)
        return issuer.issue(subject=subject, roles=[role], ttl_s=HOUR_S)

    def wait(self, what: str, question: Callable[[], Answer | None], *, limit_s: float) -> Answer:
        """The first answer that is not None. Raises StoryFailed after `limit_s`."""
        end_ns = self.clock.monotonic_ns() + round(limit_s * 1e9)
        while True:
            answer = question()
            if answer is not None:
                return answer
            if self.clock.monotonic_ns() > end_ns:
                raise StoryFailed(f"{what}: not within {limit_s:g} s")
            self.clock.sleep(LOOK_S)

    # -- inside ----------------------------------------------------------------------------------

    def _run(self, arguments: tuple[str, ...], *, shown: bool) -> str:
        if shown:
            self._write(f"{INDENT}$ serving {' '.join(map(_as_typed, arguments))}\n")
        written = io.StringIO()
        with redirect_stdout(written):
            app([*arguments, "--data-dir", str(self.data_dir)], standalone_mode=False)
        return written.getvalue()

    def _quote(self, text: str) -> None:
        for line in text.rstrip().splitlines():
            self._write(f"{INDENT}  {line}\n")

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


@contextmanager
def stage(
    folder: Path, *, settings: dict[str, Any], clock: Clock, out: TextIO = sys.stdout
) -> Iterator[Stage]:
    """An instance that is ready. settings: groups beside ports and data directory."""
    ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
    values: dict[str, Any] = {name: {"port": port} for name, port in ports.items()}
    values |= {"data_dir": str(folder / "data"), **settings}
    config = folder / "serving.yaml"
    config.write_text(yaml.safe_dump(values))
    environment = {k: v for k, v in os.environ.items() if not k.startswith("SERVING_")}
    command = [sys.executable, "-m", "serving", "up", "--json", "--config", str(config)]
    found = Stage(folder, ports, clock=clock, out=out)
    with running(
        command, name="up", folder=folder, environment=environment, grace_s=GRACE_S
    ) as child:
        child.wait_for('"event":"ready"', limit_s=START_S)
        yield found


def _as_typed(argument: str) -> str:
    """As it is written in a shell, tokens left out."""
    if argument.count(".") == 2 and len(argument) > 100:  # noqa: PLR2004 -- the form of a JWT
        return "$TOKEN"
    return f'"{argument}"' if " " in argument else argument
