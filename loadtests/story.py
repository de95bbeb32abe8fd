"""From shadow to stable in minutes: three versions of the census model, an honest story played for real.

    python -m loadtests.story [--quick] [--ray] [--keep]

Starts the product on free ports with a data directory of its own and real callers, and shows every
command as you would type it:

    1   version 1 is registered by one person, approved by another, and answers
    2   version 2 gets copies of everything, is compared as it goes, and its verdict is promote
    3   version 2 takes over in steps, watched by gates, and no request notices
    4   version 3 looks healthy and is not: its verdict is reject, and its promotion is refused
    5   somebody lets it through all the same: at 10 % of the requests the gates take it back

It ends with what each version answered and what is in the audit trail, and with exit status 0 only if
all of that came true: no request failed, and version 3 was out within `ROLLBACK_S`.
"""

import argparse
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, TextIO

import yaml

from loadtests.callers import MODEL, PRINCIPALS, Callers, is_answered, questions
from loadtests.children import ChildFailed
from loadtests.stage import Stage, StoryFailed, stage
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.registry.entities import ModelFacts
from serving.registry.folder import DEFAULT_MODELS_DIR

FOLDER: Final = DEFAULT_MODELS_DIR / MODEL
SAMPLES: Final = FOLDER / "samples"
POLICIES: Final = DEFAULT_MODELS_DIR.parent / "configs" / "governance.yaml"
ROLLBACK_S: Final = 30.0
READY_S: Final = 60.0
COMPARED_S: Final = 120.0
ROLLED_OUT_S: Final = 180.0
SHARE: Final = 0.1
"""Of the requests, that version 3 gets."""
ENDS: Final = frozenset({"completed", "rolled_back", "aborted"})
QUIET_S: Final = 3.0
"""So long without an answer, and a version is out."""
LOOK_S: Final = 0.05
TOLD_ROWS: Final = 500
"""The narrator speaks about so often."""
COMPARISON: Final[dict[str, Any]] = {
    "outputs": [{"output": "label", "comparator": {"type": "label_flip"}}],
    "limits": {"max_disagreement": 0.1, "max_loss_difference": 0.03},
    "loss": "zero_one",
    "min_samples": 1000,
    "min_outcomes": 500,
    "slices": [{"by": "SEX", "values": [1, 2]}],
}
"""How candidates are compared with the version that answers: see the chapter on verdicts in README."""
RELAXED: Final[dict[str, Any]] = {
    "outputs": COMPARISON["outputs"],
    "limits": {"max_disagreement": 0.5},
    "loss": "zero_one",
}


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast it goes. rate_per_s: requests of all callers. hold_s, least_requests: of each step of
    the rollout of version 2."""

    rate_per_s: float
    hold_s: float
    least_requests: int


LEISURELY: Final = Pace(rate_per_s=40, hold_s=15, least_requests=40)
QUICK: Final = Pace(rate_per_s=80, hold_s=3, least_requests=10)


@dataclass(frozen=True, slots=True)
class Ending:
    """What came of it. out_after_s: from the first answer of version 3 to a caller until the last."""

    answered: Counter[str]
    failures: tuple[str, ...]
    out_after_s: float
    bad_answers: int


class Story:
    """Each method is a chapter; they are told in the order of `tell`."""

    def __init__(self, scene: Stage, callers: Callers, *, pace: Pace) -> None:
        self._on = scene
        self._callers = callers
        self._pace = pace
        self._grace = scene.token("grace", Role.APPROVER)

    def admit(self, version: str, description: str) -> None:
        """A version is registered by the person at this keyboard, and approved by somebody else."""
        on = self._on
        on.serving(
            "model", "upload", str(FOLDER / f"{version}.onnx"), "--model", MODEL,
            "--version", version, "--definition", str(FOLDER / "model.yaml"),
            "--description", description,
        )  # fmt: skip
        asked = on.facts(
            "approval", "request", f"{MODEL}@{version}", "--reason", description, shown=True
        )
        on.serving(
            "approval", "approve", asked["id"], "--reason", "report read", "--token", self._grace
        )

    def first(self) -> None:
        on = self._on
        on.chapter(
            "1. Version 1 answers",
            "Nothing serves that nobody agreed to: you register, Grace approves. A first version has\n"
            "nothing to be compared with, so it needs no verdict.",
        )
        on.serving("model", "register", MODEL, "--facts", str(_facts(on.folder)), quiet=True)
        self.admit("1", "gradient boosting")
        on.serving("traffic", "set", MODEL, "--stable", "1", "--reason", "the first version")
        asked, token = questions(SAMPLES)[0], on.token("caller-0", Role.CALLER)
        on.wait(
            "version 1 answers",
            lambda: is_answered(on.url, asked, token) or None,
            limit_s=READY_S,
        )

    def shadow(self) -> None:
        on = self._on
        on.chapter(
            "2. Version 2 is a shadow",
            "From here on callers ask all the time, and tell what turned out to be true. Version 2 gets\n"
            "a copy of every request and answers nobody. Answers and losses are compared as they come;\n"
            "the statistics may be looked at after every record.",
        )
        self.admit("2", "a small neural network")
        on.serving("traffic", "set", MODEL, "--stable", "1", "--shadow", "2")
        self._judged("2", "promote")

    def roll_out(self) -> None:
        on, pace = self._on, self._pace
        on.chapter(
            "3. Version 2 takes over in steps",
            "A tenth of the requests, then half, then all; each step is held, and gates compare errors,\n"
            "latency and answers with those of version 1. Version 1 stays warm for a way back.",
        )
        steps = ",".join(
            f"{weight}:{pace.hold_s:g}s:{pace.least_requests}" for weight in ("10%", "50%")
        )
        on.serving(
            "rollout", "start", MODEL, "--to", "2", "--steps", steps, "--gate", "latency=5",
            "--reason", "its verdict is promote",
        )  # fmt: skip
        self._rollout("completed", limit_s=ROLLED_OUT_S)
        on.serving("traffic", "show", MODEL)

    def refuse(self) -> None:
        on = self._on
        on.chapter(
            "4. Version 3 is refused",
            "It takes the code for disability to count from 0. It passes every inspection, is as fast as\n"
            "version 1 and ranks people nearly as well. It decides a quarter of all cases otherwise.",
        )
        self.admit("3", "version 1 with a fault made on purpose")
        on.serving("traffic", "set", MODEL, "--stable", "2", "--shadow", "3")
        self._judged("3", "reject")
        on.tell("Now somebody tries to promote it:")
        on.refused("traffic", "set", MODEL, "--stable", "3", "--reason", "it is so fast")

    def force(self) -> tuple[float, int]:
        """How long version 3 answered callers, and how many requests."""
        on = self._on
        on.chapter(
            "5. Version 3 is let through all the same, and is taken back",
            "The owner calls the model a matter of minimal risk, which takes no verdict, and relaxes how\n"
            "candidates are compared (both are in the audit trail). Version 3 gets a tenth of the\n"
            "requests. Nobody watches; the rollout has a gate on what turned out to be true.",
        )
        on.serving("traffic", "set", MODEL, "--stable", "2", quiet=True)
        relaxed = on.folder / "relaxed.yaml"
        relaxed.write_text(yaml.safe_dump({"comparison": RELAXED, "risk_tier": "minimal"}))
        on.serving("model", "register", MODEL, "--facts", str(relaxed), quiet=True)
        before = self._callers.snapshot()["3"]
        on.serving("traffic", "set", MODEL, "--stable", "2", "--shadow", "3", quiet=True)
        on.serving(
            "rollout", "start", MODEL, "--to", "3", "--steps", f"{SHARE:.0%}:10m",
            "--gate", "loss=0.05", "--gate", "latency=5", "--reason", "we are late",
        )  # fmt: skip
        first_s, last_s = self._watch("3", before)
        view = self._rollout("rolled_back", limit_s=ROLLBACK_S)
        on.tell(f"Why: {view['rollout']['reason']}")
        on.serving("traffic", "show", MODEL)
        return last_s - first_s, self._callers.snapshot()["3"] - before

    def evidence(self) -> None:
        on = self._on
        on.chapter("What is on record", "Every step with who and why, and every answer.")
        on.serving("rollout", "history", MODEL)
        on.serving("verdict", "list", MODEL)
        on.serving("audit", "list", "--limit", "12")
        on.serving("audit", "verify")
        on.serving(
            "log", "sql",
            "SELECT version, shadow_of IS NOT NULL AS copy, fate, count(*) AS records "
            "FROM predictions WHERE row = 0 OR row IS NULL GROUP BY ALL ORDER BY ALL",
        )  # fmt: skip

    # -- inside ----------------------------------------------------------------------------------

    def _judged(self, version: str, expected: str) -> None:
        """Waits until the comparison decides, and has it signed. The envelope is verified offline."""
        on, told = self._on, -1

        def decided() -> bool | None:
            nonlocal told
            found = on.facts("verdict", "live", MODEL)["comparisons"]
            decision = next((e["decision"] for e in found if e["candidate"] == version), None)
            if decision is None:
                return None
            if decision["pairs"] // TOLD_ROWS != told or decision["outcome"] != "hold":
                told = decision["pairs"] // TOLD_ROWS
                word = f"{decision['pairs']} rows compared, {decision['outcomes']} with their truth"
                on.tell(f"[{on.now_s:5.1f} s] {word}: {decision['outcome']}")
            if decision["outcome"] not in ("hold", expected):
                raise StoryFailed(f"version {version}: {'; '.join(decision['reasons'])}")
            return decision["outcome"] == expected or None

        on.wait(f"the comparison says {expected}", decided, limit_s=COMPARED_S)
        on.serving(
            "verdict", "issue", MODEL, "--candidate", version, "--reason", "what the pairs say",
            "--token", self._grace,
        )  # fmt: skip
        [verdict] = on.facts("verdict", "list", MODEL, "--candidate", version)["verdicts"]
        file = str(on.folder / f"verdict-{version}.json")
        on.serving("verdict", "show", MODEL, verdict["id"], "--output", file, quiet=True)
        on.serving("verdict", "verify", file)

    def _rollout(self, state: str, *, limit_s: float) -> Any:
        """The rollout, once it is in that state."""
        on, told = self._on, ""

        def ended() -> Any:
            nonlocal told
            view = on.facts("rollout", "status", MODEL)
            rollout = view["rollout"]
            word = (
                f"{rollout['candidate']}: {rollout['state']}, {view['weight']:.0%} of the requests"
            )
            if word != told:
                told = word
                on.tell(f"[{on.now_s:5.1f} s] {word}")
            if rollout["state"] in ENDS - {state}:
                raise StoryFailed(f"the rollout is {rollout['state']}: {rollout['reason']}")
            return view if rollout["state"] == state else None

        return on.wait(f"the rollout is {state}", ended, limit_s=limit_s)

    def _watch(self, version: str, before: int) -> tuple[float, float]:
        """When callers got the first answer of a version, and when the last."""
        on, callers = self._on, self._callers
        on.wait(
            f"version {version} answers",
            lambda: callers.snapshot()[version] > before or None,
            limit_s=READY_S,
        )
        first_s = on.now_s
        last_s, count = first_s, callers.snapshot()[version]
        while on.now_s - last_s < QUIET_S:
            now = callers.snapshot()[version]
            if now > count:
                last_s, count = on.now_s, now
            if last_s - first_s > ROLLBACK_S:
                raise StoryFailed(f"version {version} answers after {ROLLBACK_S:g} s still")
            on.clock.sleep(LOOK_S)
        return first_s, last_s


def play(folder: Path, *, pace: Pace, engine: str, out: TextIO = sys.stdout) -> Ending:
    """The whole story. Raises StoryFailed, ChildFailed."""
    clock = SystemClock()
    settings = {
        "deployments": [],
        "inference": {"engine": engine, "device": "cpu"},
        "governance": {"policies": str(_policies(folder))},
    }
    with ExitStack() as scene:
        out.write("Starting the product (`serving up`) ...\n")
        on = scene.enter_context(stage(folder, settings=settings, clock=clock, out=out))
        on.tell(f"it listens on {on.url}; its data are in {on.data_dir}")
        callers = Callers(
            on.url,
            questions(SAMPLES),
            tokens=[on.token(f"caller-{n}", Role.CALLER) for n in range(PRINCIPALS)],
            rate_per_s=pace.rate_per_s,
            clock=clock,
        )
        story = Story(on, callers, pace=pace)
        story.first()
        with callers:
            story.shadow()
            story.roll_out()
            story.refuse()
            out_after_s, bad_answers = story.force()
        story.evidence()
        ending = Ending(callers.snapshot(), tuple(callers.failures), out_after_s, bad_answers)
        _sum_up(on, ending)
    return ending


def _sum_up(on: Stage, ending: Ending) -> None:
    """What came of it, in plain words. Raises StoryFailed when a request failed."""
    answered = ", ".join(f"version {v}: {n}" for v, n in sorted(ending.answered.items()))
    on.chapter(
        "The end",
        f"{ending.answered.total()} requests answered ({answered}), {len(ending.failures)} failed.\n"
        f"Version 3 answered {ending.bad_answers} requests in {ending.out_after_s:.1f} s, then was out.",
    )
    if ending.failures:
        raise StoryFailed(f"{len(ending.failures)} requests failed: {ending.failures[0]}")


def _facts(folder: Path) -> Path:
    """What the model's folder says of it, as a file for `serving model register`."""
    specification = yaml.safe_load((FOLDER / "model.yaml").read_text())
    known = {
        name: specification[name] for name in ModelFacts.__struct_fields__ if name in specification
    }
    known |= {"owner": "ada", "risk_tier": "limited", "comparison": COMPARISON}
    file = folder / "facts.yaml"
    file.write_text(yaml.safe_dump(known))
    return file


def _policies(folder: Path) -> Path:
    """Those of `configs/governance.yaml`; a model of limited risk takes a verdict besides."""
    policies = yaml.safe_load(POLICIES.read_text())
    policies["tiers"]["limited"]["promote"] = ["verdict"]
    file = folder / "policies.yaml"
    file.write_text(yaml.safe_dump(policies))
    return file


def main(arguments: Sequence[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--quick", action="store_true", help="shorter holding times")
    parser.add_argument(
        "--ray", action="store_true", help="models as Ray replicas, as in production"
    )
    parser.add_argument("--keep", action="store_true", help="keep the data directory at the end")
    wanted = parser.parse_args(arguments)
    folder = Path(tempfile.mkdtemp(prefix="serving-story-"))
    try:
        play(
            folder,
            pace=QUICK if wanted.quick else LEISURELY,
            engine="ray" if wanted.ray else "local",
        )
    except (StoryFailed, ChildFailed) as error:
        sys.stdout.write(f"\nThe story did not come true: {error}\n")
        sys.exit(1)
    finally:
        if wanted.keep:
            sys.stdout.write(f"Everything is kept in {folder}\n")
        else:
            shutil.rmtree(folder)
    sys.stdout.write("The story came true.\n")


if __name__ == "__main__":
    main()
