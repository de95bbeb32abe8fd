"""Models that nobody here wrote: the backend tests of the `onnx` package, through the whole product.

A sample of every family of operators runs by default; all of them with

    python -m pytest tests/conformance --onnx-models=all

Either way the table of what was run, skipped (with the reason) and passed is printed at the end.
"""

from collections.abc import Sequence
from pathlib import Path

import grpc.aio  # type: ignore[import-untyped]  # it ships no types
import pytest

from serving.errors import ServingError, SpecificationInvalid
from serving.registry.folder import CatalogueEntry
from tests.conformance import specifications
from tests.conformance.calls import Call, GrpcCall, HttpCall
from tests.conformance.cases import Case, all_cases, sampled
from tests.conformance.shelf import Shelf
from tests.conformance.verdicts import Fate, Verdict, judge, run_directly
from tests.places import InProcess

SHELF: int = 40
EVERY = {"all": 1, "sample": 6}
LARGEST_SAMPLED_KIND = "light"


@pytest.mark.timeout(900)
async def test_every_model_answers_what_onnx_expects(
    in_process: InProcess, tmp_path: Path, pytestconfig: pytest.Config, verdicts: list[Verdict]
) -> None:
    """A model that ONNX Runtime runs agrees with its expected output; no other answer is given."""
    mode = pytestconfig.getoption("--onnx-models")
    cases = [case for case in all_cases() if mode == "all" or case.kind != LARGEST_SAMPLED_KIND]
    chosen = sampled(cases, EVERY[mode])
    shelf = Shelf(in_process)
    place = in_process.place
    port = in_process.settings.grpc.port
    async with place.client() as client, grpc.aio.insecure_channel(f"127.0.0.1:{port}") as channel:
        calls: list[Call] = [HttpCall(place, client), GrpcCall(place, channel)]
        for start in range(0, len(chosen), SHELF):
            folder = tmp_path / f"shelf-{start}"
            verdicts += await run_shelf(shelf, folder, chosen[start : start + SHELF], calls)
    await shelf.clear()

    assert [f"{v.case.name}: {v.reason}" for v in verdicts if v.fate == Fate.FAILED] == []
    assert len(verdicts) == len(chosen)
    assert sum(verdict.fate == Fate.PASSED for verdict in verdicts) > len(chosen) / 2


async def run_shelf(
    shelf: Shelf, folder: Path, cases: Sequence[Case], calls: Sequence[Call]
) -> list[Verdict]:
    """Serves and calls all of `cases`."""
    entries: dict[str, CatalogueEntry] = {}
    refusals: dict[str, ServingError] = {}
    for case in cases:
        home = folder / case.name
        specifications.write(home, case)
        try:
            entries[case.name] = specifications.entry(home, case)
        except SpecificationInvalid as error:
            refusals[case.name] = error
    failures = await shelf.fill(list(entries.values()))
    found = []
    for case in cases:
        entry = entries.get(case.name)
        refusal = refusals.get(case.name) if entry is None else failures.get(entry.version.key)
        if refusal is not None or entry is None:
            found.append(judge_refusal(case, refusal))
            continue
        of_calls = [
            judge(case, [await call(entry.version, inputs) for inputs, _ in case.data_sets])
            for call in calls
        ]
        found.append(max(of_calls, key=lambda verdict: verdict.fate == Fate.FAILED))
    return found


def judge_refusal(case: Case, refusal: ServingError | None) -> Verdict:
    """A model may be refused for what the protocol cannot carry, or what the runtime cannot load."""
    assert refusal is not None
    message = refusal.message
    reason = specifications.unservable(case)
    precise = ("not a tensor", "is not served", "inputs", "is not declared")
    if "cannot be loaded" in message:
        direct = run_directly(case, case.data_sets[0][0])
        if isinstance(direct, str):
            return Verdict(case, Fate.NOT_RUN, direct)
    elif reason and any(words in message for words in precise):
        return Verdict(case, Fate.REFUSED, reason)
    return Verdict(case, Fate.FAILED, f"refused: {message[:160]}")
