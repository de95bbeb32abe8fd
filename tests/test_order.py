"""The order of tests: one Ray, long files first, instances beside what needs none."""

from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Final, cast

import pytest

from tests.order import LIMIT_S, OF_INSTANCES, TESTS, FromBothEnds, in_order, is_on_ray

INSTANCES = min(OF_INSTANCES)
LIGHT = TESTS / "core"


@dataclass
class Item:
    """As much of a test as has a place: its file and its marks."""

    path: Path
    name: str
    config: SimpleNamespace
    marks: dict[str, tuple[Any, ...]] = field(default_factory=dict)

    def get_closest_marker(self, name: str) -> SimpleNamespace | None:
        return SimpleNamespace(args=self.marks[name]) if name in self.marks else None


class Session:
    """One collection of tests, in the order in which pytest found them."""

    def __init__(self) -> None:
        self.items: list[Item] = []
        self._config = SimpleNamespace(stash=pytest.Stash())

    def has(self, path: Path, name: str = "test", **marks: Any) -> Item:
        given = {mark: value if isinstance(value, tuple) else () for mark, value in marks.items()}
        made = Item(path, name, self._config, given)
        self.items.append(made)
        return made

    def ordered(self) -> list[Item]:
        return cast("list[Item]", in_order(cast("list[pytest.Item]", self.items)))

    def files(self) -> list[str]:
        """In the order in which they run."""
        return list(dict.fromkeys(item.path.name for item in self.ordered()))


@pytest.fixture
def session() -> Session:
    return Session()


def on_ray(item: Item) -> bool:
    return is_on_ray(cast("pytest.Item", item))


def test_ray_comes_first_then_instances_then_everything_else(session: Session) -> None:
    """So that Ray ends early, and what starts instances has light tests to run beside."""
    session.has(LIGHT / "light.py")
    session.has(INSTANCES / "instance.py")
    session.has(TESTS / "elsewhere" / "ray.py", ray=True)

    assert session.files() == ["ray.py", "instance.py", "light.py"]


def test_one_test_on_ray_takes_its_file_along(session: Session) -> None:
    """A file is not cut in two: its other tests run in the same place, and count as on Ray."""
    before = session.has(LIGHT / "a.py", "other")
    mixed = session.has(LIGHT / "b.py", "plain")
    session.has(LIGHT / "b.py", "on ray", ray=True)
    ordered = [item.name for item in session.ordered()]

    assert ordered == ["plain", "on ray", "other"]
    assert (on_ray(mixed), on_ray(before)) == (True, False)


def test_ray_wins_over_the_folder(session: Session) -> None:
    """A file on Ray among those of instances is with the others on Ray, however short its limit is."""
    session.has(INSTANCES / "long.py", timeout=(900,))
    session.has(INSTANCES / "ray.py", ray=True, timeout=(1,))

    assert session.files() == ["ray.py", "long.py"]


def test_files_of_instances_begin_with_the_longest(session: Session) -> None:
    """By the largest limit of any of their tests; who names none has the usual one."""
    session.has(INSTANCES / "usual.py")
    session.has(INSTANCES / "short.py", timeout=(LIMIT_S / 2,))
    session.has(INSTANCES / "long.py", "quick", timeout=(1,))
    session.has(INSTANCES / "long.py", "slow", timeout=(LIMIT_S * 3,))
    session.has(INSTANCES / "longer.py", timeout=(LIMIT_S * 5,))

    assert session.files() == ["longer.py", "long.py", "usual.py", "short.py"]


def test_limits_move_nothing_else(session: Session) -> None:
    """Light files stay in the order of their names, so that a folder's instance is started once."""
    session.has(LIGHT / "a.py")
    session.has(LIGHT / "b.py", timeout=(900,))
    session.has(LIGHT / "c.py")

    assert session.files() == ["a.py", "b.py", "c.py"]


def test_the_order_within_a_file_stays(session: Session) -> None:
    """Also where its tests differ in their limits and marks; and no test is lost or run twice."""
    for number, path in enumerate([LIGHT / "z.py", INSTANCES / "z.py"] * 5):
        session.has(path, str(number), timeout=(100 * number,))
    ordered = session.ordered()

    assert sorted(item.name for item in ordered) == sorted(item.name for item in session.items)
    for folder in (LIGHT, INSTANCES):
        names = [int(item.name) for item in ordered if item.path.parent == folder]
        assert names == sorted(names)


def test_a_folder_below_one_of_instances_is_not_one(session: Session) -> None:
    """What counts is where a file lies itself."""
    session.has(LIGHT / "light.py")
    session.has(INSTANCES / "below" / "file.py")

    assert session.files() == ["light.py", "file.py"]


def test_the_folders_of_instances_are_there() -> None:
    """A folder that was renamed would silently lose its place."""
    assert [path for path in OF_INSTANCES if not path.is_dir()] == []


# -- who gets which file -----------------------------------------------------------------------------


class Worker:
    """A worker of xdist: keeps the tests that it was given, and runs none."""

    def __init__(self, name: str) -> None:
        self.gateway = SimpleNamespace(id=name)
        self.given: list[int] = []
        self.shutting_down = False

    def send_runtest_some(self, indices: list[int]) -> None:
        self.given += indices

    def shutdown(self) -> None:
        self.shutting_down = True


class Run:
    """Files, of so many tests each, given to workers that finish what they are told to finish."""

    def __init__(self, files: dict[str, int], *, workers: int) -> None:
        self.tests = [f"{name}::{n}" for name, count in files.items() for n in range(count)]
        self.workers = [Worker(f"gw{number}") for number in range(workers)]
        self._done: list[str] = []
        options = {"tx": ["popen"] * workers, "loadscopereorder": True}
        config = SimpleNamespace(option=SimpleNamespace(**options), getvalue=options.get)
        self._scheduler = FromBothEnds(cast("pytest.Config", config), None)
        for worker in self.workers:
            self._scheduler.add_node(worker)
            self._scheduler.add_node_collection(worker, self.tests)
        self._scheduler.schedule()

    def files_of(self, number: int) -> list[str]:
        """What a worker has been given, in its order."""
        given = [self.tests[index] for index in self.workers[number].given]
        return list(dict.fromkeys(test.partition("::")[0] for test in given))

    def finish(self, number: int, tests: int) -> None:
        """A worker ends its next tests."""
        worker = self.workers[number]
        for _ in range(tests):
            index = next(each for each in worker.given if self.tests[each] not in self._done)
            self._done.append(self.tests[index])
            self._scheduler.mark_test_complete(worker, index)

    def finish_all(self) -> None:
        """They end test after test in turn, until nothing is left."""
        while len(self._done) < len(self.tests):
            for number, worker in enumerate(self.workers):
                if any(self.tests[each] not in self._done for each in worker.given):
                    self.finish(number, 1)


SIX: Final = {"a.py": 3, "b.py": 4, "c.py": 9, "d.py": 5, "e.py": 7, "f.py": 6}


def test_the_first_worker_begins_at_the_front_and_the_other_at_the_back() -> None:
    """However many tests a file has: Ray and the instances are with one worker."""
    run = Run(SIX, workers=2)

    assert (run.files_of(0), run.files_of(1)) == (["a.py"], ["f.py"])


def test_workers_meet_where_their_work_does() -> None:
    """A slow first file leaves the rest of the row to the other worker; each file has one worker."""
    run = Run(SIX, workers=2)
    run.finish(1, 6 + 7 + 5)
    run.finish(0, 1)
    run.finish_all()
    first, second = run.files_of(0), run.files_of(1)

    assert second[:3] == ["f.py", "e.py", "d.py"]
    assert first[0] == "a.py"
    assert (first, second) == (sorted(first), sorted(second, reverse=True))
    assert sorted(first + second) == sorted(SIX)


def test_one_worker_keeps_the_row() -> None:
    """From its front to its back."""
    run = Run(SIX, workers=1)
    run.finish_all()

    assert run.files_of(0) == list(SIX)


def test_more_than_two_share_the_back() -> None:
    """Only one begins with what is on Ray."""
    run = Run(SIX, workers=3)
    run.finish_all()

    assert [run.files_of(number)[0] for number in range(3)] == ["a.py", "f.py", "e.py"]
    assert sorted(name for number in range(3) for name in run.files_of(number)) == sorted(SIX)
