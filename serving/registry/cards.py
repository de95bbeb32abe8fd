"""The model card of a version: nine sections, filled from the registry and from nothing else.

Whatever nobody recorded is left out and named in `missing`, never invented. The same registry makes
the same card. Sections after Mitchell et al., Model Cards for Model Reporting (2019).
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from datetime import UTC, datetime
from typing import Any, Final

import msgspec

from serving.core.models import Stage
from serving.core.tensors import TensorSpecification
from serving.registry.entities import (
    Dataset,
    Lineage,
    Metric,
    ModelFacts,
    RegisteredModel,
    RegisteredVersion,
    Runtime,
)

_BEGINNING: Final = re.compile(r"^(?:\d+(?=[.)])|(?=[#>+\-=~]))")
"""What begins something other than a sentence."""


class Change(msgspec.Struct, frozen=True):
    """One step of the version's history."""

    at_ns: int
    name: str
    actor: str
    reason: str


class ModelCard(msgspec.Struct, frozen=True, kw_only=True):
    """All that the registry knows of a version, in the order in which a reader needs it.

    factors: the parts of the data that figures are given for. missing: sections without facts.
    stages: of an ensemble.
    """

    model: str
    version: str
    digest: str
    state: str
    author: str
    created_ns: int
    description: str
    facts: ModelFacts
    inputs: tuple[TensorSpecification, ...]
    outputs: tuple[TensorSpecification, ...]
    runtime: Runtime
    lineage: Lineage
    factors: tuple[str, ...]
    evaluation_data: tuple[str, ...]
    history: tuple[Change, ...]
    missing: tuple[str, ...]
    stages: tuple[Stage, ...] = ()

    @property
    def overall(self) -> Iterator[Metric]:
        return (metric for metric in self.lineage.metrics if not metric.slice)

    @property
    def by_slice(self) -> Iterator[Metric]:
        return (metric for metric in self.lineage.metrics if metric.slice)


def model_card(
    model: RegisteredModel, version: RegisteredVersion, *, history: Sequence[Change] = ()
) -> ModelCard:
    """The card. history: of this version, oldest first."""
    metrics = version.lineage.metrics
    return ModelCard(
        model=model.name,
        version=version.version,
        digest=version.digest,
        state=version.state.value,
        author=version.author,
        created_ns=version.created_ns,
        description=version.description,
        facts=model.facts,
        inputs=version.definition.inputs,
        outputs=version.definition.outputs,
        runtime=version.runtime,
        lineage=version.lineage,
        factors=_distinct(metric.slice for metric in metrics),
        evaluation_data=_distinct(metric.data_set for metric in metrics),
        history=tuple(history),
        missing=tuple(_missing(model.facts, version)),
        stages=version.definition.stages,
    )


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name for name in names if name))


def _missing(facts: ModelFacts, version: RegisteredVersion) -> Iterator[str]:
    """What a complete card has and this one has not."""
    lineage = version.lineage
    recorded: dict[str, Any] = {
        "details: description": facts.description,
        "details: licence": facts.licence,
        "details: contacts": facts.contacts,
        "intended use: purpose": facts.purpose,
        "intended use: intended uses": facts.intended_uses,
        "intended use: prohibited uses": facts.prohibited_uses,
        "factors: figures for parts of the data": [m for m in lineage.metrics if m.slice],
        "metrics: figures for all of the data": [m for m in lineage.metrics if not m.slice],
        "evaluation data": [m for m in lineage.metrics if m.data_set],
        "training data: data sets": facts.data_sets,
        "training data: manifest": lineage.training_manifest,
        "ethical considerations": facts.ethical_considerations,
        "caveats: limitations": facts.limitations,
    }
    return (name for name, value in recorded.items() if not value)


# -- Markdown ----------------------------------------------------------------------------------------


def markdown(card: ModelCard) -> str:
    """The card for people."""
    sections = [
        f"# {_text(card.model)} {_text(card.version)}",
        _text(card.description or card.facts.description),
        "## 1. Model details",
        _table(_details(card)),
        "## 2. Intended use",
        _text(card.facts.purpose) or _NOTHING,
        _list("Intended", card.facts.intended_uses),
        _list("Not intended", card.facts.prohibited_uses),
        "## 3. Factors",
        _list("Figures are given for", card.factors),
        "## 4. Metrics",
        _metrics(card.overall),
        "## 5. Evaluation data",
        _list("Judged with", card.evaluation_data),
        "## 6. Training data",
        _data_sets(card.facts.data_sets),
        _table({"manifest (SHA-256)": card.lineage.training_manifest}),
        "## 7. Quantitative analyses",
        _metrics(card.by_slice),
        "## 8. Ethical considerations",
        _list("", card.facts.ethical_considerations),
        "## 9. Caveats and recommendations",
        _list("", card.facts.limitations),
        "## Inputs and outputs",
        _tensors(card),
        "## History",
        _history(card.history),
    ]
    if card.missing:
        sections += ["## Not recorded", _list("", card.missing)]
    return "\n\n".join(section for section in sections if section) + "\n"


_NOTHING: Final = "*Not recorded.*"


def _details(card: ModelCard) -> dict[str, str]:
    facts, runtime = card.facts, card.runtime
    opsets = ", ".join(f"{domain or 'ai.onnx'} {v}" for domain, v in runtime.opsets.items())
    return {
        "owner": facts.owner,
        "team": facts.team,
        "contacts": ", ".join(facts.contacts),
        "author of this version": card.author,
        "registered": _instant(card.created_ns),
        "state": card.state,
        "risk tier": facts.risk_tier,
        "task": facts.task,
        "licence": facts.licence,
        "source": facts.source,
        "artifact (SHA-256)": card.digest,
        "runtime": f"{runtime.name} {runtime.version}".strip(),
        "operator sets": opsets,
        "code revision": card.lineage.code_revision,
        "made from version": card.lineage.parent,
        "provenance": card.lineage.provenance,
        "imported from": card.lineage.source_uri,
        "parameters": ", ".join(f"{k}={v}" for k, v in card.lineage.parameters.items()),
    }


def _table(values: dict[str, str]) -> str:
    lines = [f"| {name} | {_text(value)} |" for name, value in values.items() if value]
    return "\n".join(["| | |", "|---|---|", *lines]) if lines else ""


def _list(head: str, items: Sequence[str]) -> str:
    if not items:
        return f"{head}: {_NOTHING}" if head else _NOTHING
    lines = [f"- {_text(item)}" for item in items]
    return "\n".join([f"{head}:", "", *lines] if head else lines)


def _metrics(metrics: Iterable[Metric]) -> str:
    lines = [
        f"| {_text(m.name)} | {_text(m.slice) or 'all'} | {m.value:g} | {_interval(m)} "
        f"| {'' if m.n is None else m.n} | {_text(m.data_set)} |"
        for m in metrics
    ]
    head = ["| metric | part | value | interval | n | data |", "|---|---|---|---|---|---|"]
    return "\n".join([*head, *lines]) if lines else _NOTHING


def _interval(metric: Metric) -> str:
    if metric.low is None or metric.high is None:
        return ""
    return f"{metric.low:g} to {metric.high:g}"


def _data_sets(sets: Sequence[Dataset]) -> str:
    if not sets:
        return _NOTHING
    described = []
    for each in sets:
        values = msgspec.to_builtins(each)
        described.append(f"**{_text(each.name)}**")
        described.append(_table({k.replace("_", " "): v for k, v in values.items() if k != "name"}))
    return "\n\n".join(described)


def _tensors(card: ModelCard) -> str:
    lines = ["| | name | datatype | shape | meaning |", "|---|---|---|---|---|"]
    for kind, tensors in (("input", card.inputs), ("output", card.outputs)):
        for each in tensors:
            shape = " x ".join("any" if size < 0 else str(size) for size in each.shape) or "scalar"
            cells = (_text(each.name), each.datatype, shape, _text(each.meaning))
            lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def _history(changes: Sequence[Change]) -> str:
    lines = [
        f"| {_instant(each.at_ns)} | {each.name} | {_text(each.actor)} | {_text(each.reason)} |"
        for each in changes
    ]
    return "\n".join(["| when | what | who | why |", "|---|---|---|---|", *lines])


def _instant(wall_ns: int) -> str:
    return datetime.fromtimestamp(wall_ns // 10**9, UTC).strftime("%Y-%m-%d %H:%M:%SZ")


def _text(value: str) -> str:
    """As it is read, whatever it holds: one line that makes no cell, tag, heading or list."""
    line = " ".join(value.split())
    for character in "\\`*_|[]":
        line = line.replace(character, f"\\{character}")
    line = line.replace("<", "&lt;")
    return _BEGINNING.sub(lambda found: f"{found.group()}\\", line)
