"""What all tests share: how Hypothesis draws its examples, and a place to tell a story in."""

import os
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from serving.storage.database import Database
from serving.storage_settings import RegistrySettings
from tests.catalogue import DOUBLER, TWIN, write_models
from tests.databases import Postgres, postgres
from tests.instances import Instance
from tests.order import FromBothEnds, in_order, is_on_ray
from tests.places import InProcess

# Each process that tests start would compile the whole product anew, and pytest all tests.
sys.dont_write_bytecode = False
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)

# No deadline per example: machines that run tests are busy, and each test has a timeout anyway. In CI
# the examples are the same at every run, so that a red run is about the change.
settings.register_profile("developer", deadline=None)
settings.register_profile("ci", deadline=None, derandomize=True)
settings.load_profile("ci" if os.environ.get("CI") else "developer")


def pytest_addoption(parser: pytest.Parser) -> None:
    """How many of the onnx package's models are run (`tests/conformance`); how many processes are
    killed, and which (`tests/faults/test_kill_cycles.py`); how many rows are predicted and labelled
    (`tests/flows/test_outcomes_reported.py`; 100000 is what the issue asks for)."""
    parser.addoption("--onnx-models", choices=("sample", "all"), default="sample")
    parser.addoption("--kill-cycles", type=int, default=25)
    parser.addoption("--kill-seed", type=int, default=1)
    parser.addoption("--outcome-predictions", type=int, default=2_000)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """See `tests.order`."""
    items[:] = in_order(items)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> FromBothEnds:
    """See `tests.order`; whichever --dist is named."""
    return FromBothEnds(config, log)


def pytest_runtest_setup(item: pytest.Item) -> None:
    """The Ray that tests share ends with the last file that has tests on it."""
    if not is_on_ray(item):
        item.config.stash.setdefault(RAY, SharedRay()).end()


def pytest_sessionfinish(session: pytest.Session) -> None:
    session.config.stash.setdefault(RAY, SharedRay()).end()


@pytest.fixture(autouse=True)
def _usual_umask() -> Iterator[None]:
    """Verbs that write secrets set it for their process, which in tests is everybody's."""
    umask = os.umask(0o022)
    yield
    os.umask(umask)


@pytest.fixture
async def in_process(tmp_path: Path) -> AsyncIterator[InProcess]:
    """A gateway worker and its replicas in this process, without a control process."""
    place = InProcess(tmp_path)
    try:
        await place.start()
        yield place
    finally:
        await place.aclose()


class SharedRay:
    """An instance on Ray: started when it is first asked for, once more after its end, and not again
    when it could not be started."""

    def __init__(self) -> None:
        self._running: Instance | None = None
        self._failed = False
        self._ending = ExitStack()

    def instance(self, folder: Path) -> Instance:
        if self._running is None:
            assert not self._failed, "Ray could not be started for an earlier test"
            self._failed = True
            self._running = self._ending.enter_context(self._started(folder))
            self._failed = False
        return self._running

    def end(self) -> None:
        self._running = None
        self._ending.close()

    @contextmanager
    def _started(self, folder: Path) -> Iterator[Instance]:
        deployments = [DOUBLER, TWIN | {"min_replicas": 2, "max_replicas": 2}]
        models = write_models(folder / "models")
        with Instance(folder, engine="ray", deployments=deployments, models_dir=models) as instance:
            instance.expect("ready", within_s=240)
            yield instance


RAY = pytest.StashKey[SharedRay]()


@pytest.fixture
def ray_instance(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Instance:
    """The models of `tests.catalogue` on a Ray that all tests share; `twin` has two replicas.

    Whoever kills something of it leaves it ready.
    """
    shared = request.config.stash.setdefault(RAY, SharedRay())
    return shared.instance(tmp_path_factory.mktemp("ray"))


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Postgres]:
    """A PostgreSQL that is started once; whoever stops it starts it again."""
    with postgres() as server:
        yield server


@pytest.fixture(params=["sqlite", "postgresql"])
def registry_settings(request: pytest.FixtureRequest) -> RegistrySettings:
    """A database of each kind with nothing in it: what is proved with it holds on both."""
    if request.param == "sqlite":
        return RegistrySettings(timeout_s=2.0)
    server: Postgres = request.getfixturevalue("postgres_server")
    return server.database()


@pytest.fixture
def database(registry_settings: RegistrySettings, tmp_path: Path) -> Iterator[Database]:
    """A migrated database of each kind."""
    opened = Database.open(registry_settings, tmp_path)
    yield opened
    opened.close()
