"""What a candidate that gets a copy of everything takes from the callers of the stable version.

    python -m loadtests.shadowing              eight pairs of windows, three minutes
    python -m loadtests.shadowing --load 0.4   where the generator has no core of its own
    python -m loadtests.shadowing --quick      seconds instead: for CI, not for reporting

BENCHMARKS, case 14a. M1 is registered twice, as the version that answers and as its candidate. An open
loop sends at 70 % of what wrk reached without copies, in windows in which one of ten thousand and in
which every answered request is copied, in turn, the first of each pair by lot. `p99 ms more` is the
median over the pairs. What was copied and what was dropped, copies being the first to go, is counted
by the product. Exit status as for `loadtests.benchmark`.
"""

import argparse
import random
import re
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import httpx
import yaml

from loadtests import facts, wrk
from loadtests.children import LOOPBACK, ChildFailed
from loadtests.goals import Figures, conclusion, judge, save
from loadtests.openloop import OpenLoad, OpenOutcome, Step, run
from loadtests.payloads import PAYLOADS
from loadtests.product import CONFIG, product
from loadtests.report import RESULTS, private_folder, tell
from loadtests.servers import M1, Server
from loadtests.targets import Target, target_of
from serving.registry.folder import DEFAULT_MODELS_DIR

LOAD: Final = 0.7
PAIRS: Final = 8
CONNECTIONS: Final = 128
CLOSED: Final = 64
SETTLE_S: Final = 1.5
"""Of load that is not measured, after the share was changed."""
NONE, ALL = "0.01%", "100%"
TIMEOUT_S: Final = 60.0
SEED: Final = 14
MISSED, IMPOSSIBLE = 1, 2


def configuration(folder: Path) -> Path:
    """The benchmark's, with M1 twice, in a models folder of its own."""
    models = folder / "models"
    shutil.copytree(DEFAULT_MODELS_DIR / M1, models / M1)
    definition = yaml.safe_load((models / M1 / "model.yaml").read_text())
    (version,) = definition["versions"]
    definition["versions"] = [version, version | {"version": "2"}]
    (models / M1 / "model.yaml").write_text(yaml.safe_dump(definition))
    settings = yaml.safe_load(CONFIG.read_text())
    settings["models_dir"] = str(models)
    settings["deployments"] = [
        {"model": M1, "stable": "1", "shadows": [{"version": "2", "share": 0.0001}]}
    ]
    file = folder / "shadowing.yaml"
    file.write_text(yaml.safe_dump(settings))
    return file


def shadowing(
    folder: Path, *, seconds: float, pairs: int = PAIRS, share_of_peak: float = LOAD
) -> Figures:
    """Callers' times with copies of everything, beside those without."""
    config = configuration(folder)
    lot = random.Random(SEED)  # noqa: S311 - an order, no secret
    order = [share for _ in range(pairs) for share in lot.sample((NONE, ALL), 2)]
    windows: dict[str, list[OpenOutcome]] = {NONE: [], ALL: []}
    with product("fsync", folder, config=config) as server:
        target = target_of(server, server.url_of(M1), PAYLOADS["json"])
        peak = wrk.run(target.closed_load(CLOSED), seconds=seconds, folder=folder)
        rate_per_s = share_of_peak * peak.requests / peak.seconds
        for share in order:
            _copy(server, config, share)
            windows[share].append(_window(target, rate_per_s, seconds))
        counted = _counted(server)
    return figures_of(rate_per_s, windows[NONE], windows[ALL], counted)


def _window(target: Target, rate_per_s: float, seconds: float) -> OpenOutcome:
    steps = [Step(rate_per_s, SETTLE_S), Step(rate_per_s, seconds)]
    load = OpenLoad(target.host, target.port, [target.request], steps, CONNECTIONS)
    return run(load).between(SETTLE_S, SETTLE_S + seconds)


def _copy(server: Server, config: Path, share: str) -> None:
    command = [sys.executable, "-m", "serving", "traffic", "set", M1, "--stable", "1"]
    command += ["--shadow", f"2={share}", "--reason", "a benchmark", "--config", str(config)]
    done = subprocess.run(  # noqa: S603 - the command line is the benchmark's own
        command,
        env=dict(server.environment),
        capture_output=True,
        text=True,
        timeout=TIMEOUT_S,
        check=False,
    )
    if done.returncode:
        raise ChildFailed(f"traffic is not set: {done.stderr.strip()}")


def _counted(server: Server) -> dict[str, float]:
    """Copies made and dropped, over all windows."""
    port = server.environment["SERVING_METRICS_PORT"]
    text = httpx.get(f"http://{LOOPBACK}:{port}/metrics", timeout=TIMEOUT_S).text
    counted = {}
    for name in ("copies", "dropped"):
        found = re.findall(rf"^serving_shadow_{name}_total{{[^}}]*}} (\S+)$", text, re.MULTILINE)
        counted[name] = sum(map(float, found))
    return counted


def figures_of(
    rate_per_s: float,
    without: Sequence[OpenOutcome],
    beside: Sequence[OpenOutcome],
    counted: dict[str, float],
) -> Figures:
    """Both sides of each pair, and what the product counted over all of them."""
    figures = Figures("shadow")
    figures.add("req/s", rate_per_s)
    for name, quantile in (("p50", 0.5), ("p99", 0.99)):
        before = [each.quantile_ms(quantile) for each in without]
        after = [each.quantile_ms(quantile) for each in beside]
        more = [b - a for a, b in zip(before, after, strict=True)]
        figures.add(f"{name} ms without", statistics.median(before))
        figures.add(f"{name} ms with all copied", statistics.median(after))
        figures.add(f"{name} ms more with all copied", statistics.median(more))
    windows = [*without, *beside]
    figures.add("failed requests", sum(len(w.refused.due_s) + w.unanswered for w in windows))
    figures.add("copies made", counted["copies"])
    figures.add("copies dropped", counted["dropped"])
    figures.add("generator late ms", max(each.late_p99_ms for each in windows))
    return figures


def main() -> int:
    options = _parse()
    known = facts.all_facts()
    seconds = options.seconds or (1.0 if options.quick else 6.0)
    try:
        with private_folder() as folder:
            pairs = 1 if options.quick else PAIRS
            measured = [shadowing(folder, seconds=seconds, pairs=pairs, share_of_peak=options.load)]
    except (ChildFailed, wrk.WrkFailed, OSError) as error:
        tell(f"could not measure: {error}")
        return IMPOSSIBLE
    verdicts = judge(measured)
    path = save(known, measured, verdicts, folder=RESULTS, name="shadowing")
    sys.stdout.write("\n".join(each.as_text() for each in measured) + "\n")
    tell(f"{conclusion(verdicts)}\nwritten to {path}")
    return MISSED if any(each.missed for each in verdicts) else 0


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--quick", action="store_true", help="one pair of windows of 1 s")
    parser.add_argument("--load", type=float, default=LOAD, help="of wrk's peak (default 0.7)")
    parser.add_argument("--seconds", type=float, help="of a window (default 6)")
    return parser.parse_args()


if __name__ == "__main__":
    sys.exit(main())
