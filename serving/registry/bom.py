"""The machine-learning bill of materials of a version: CycloneDX 1.6, from its model card.

The same card makes the same document: its serial number follows from the artifact's digest and it has
no time of its own, so that two copies can be compared.
"""

import uuid
from collections.abc import Iterator
from typing import Any, Final

from serving.registry.cards import ModelCard
from serving.registry.entities import Dataset, Metric

Document = dict[str, Any]

SCHEMA: Final = "http://cyclonedx.org/schema/bom-1.6.schema.json"


def bill_of_materials(card: ModelCard) -> Document:
    """The document, as JSON values."""
    data = [_data(each) for each in card.facts.data_sets]
    runtime = _runtime(card)
    reference = f"{card.model}@{card.version}"
    name = uuid.uuid5(uuid.NAMESPACE_URL, f"urn:serving:{reference}:{card.digest}")
    parts = [*data, *runtime, *_stages(card)]
    return {
        "$schema": SCHEMA,
        "bomFormat": "CycloneDX",
        "specVersion": "1.6",
        "serialNumber": f"urn:uuid:{name}",
        "version": 1,
        "metadata": {"component": _component(card, reference)},
        "components": parts,
        "dependencies": [{"ref": reference, "dependsOn": [part["bom-ref"] for part in parts]}],
    }


def _stages(card: ModelCard) -> list[Document]:
    """The versions that an ensemble is made of, each once."""
    by_key = {stage.key: stage for stage in card.stages}
    return [
        {
            "type": "machine-learning-model",
            "bom-ref": key,
            "name": stage.model,
            "version": stage.version,
            "hashes": [{"alg": "SHA-256", "content": stage.digest}],
        }
        for key, stage in by_key.items()
    ]


def _component(card: ModelCard, reference: str) -> Document:
    facts = card.facts
    component: Document = {
        "type": "machine-learning-model",
        "bom-ref": reference,
        "name": card.model,
        "version": card.version,
        "description": card.description or facts.description,
        "hashes": [{"alg": "SHA-256", "content": card.digest}],
        "modelCard": _model_card(card),
        "properties": [
            {"name": f"serving:{name}", "value": value} for name, value in _properties(card)
        ],
    }
    if facts.licence:
        component["licenses"] = [{"license": {"name": facts.licence}}]
    if facts.team or facts.owner:
        component["supplier"] = {"name": facts.team or facts.owner}
    pedigree = _pedigree(card)
    if pedigree:
        component["pedigree"] = pedigree
    return component


def _properties(card: ModelCard) -> Iterator[tuple[str, str]]:
    yield "owner", card.facts.owner
    yield "author", card.author
    yield "state", card.state
    yield "risk_tier", card.facts.risk_tier.value
    for name, value in card.lineage.parameters.items():
        yield f"parameter:{name}", str(value)
    for part in card.missing:
        yield "missing", part


def _pedigree(card: ModelCard) -> Document:
    lineage = card.lineage
    pedigree: Document = {}
    if lineage.parent:
        ancestor = {"type": "machine-learning-model", "name": card.model, "version": lineage.parent}
        pedigree["ancestors"] = [ancestor]
    if lineage.code_revision:
        pedigree["commits"] = [{"uid": lineage.code_revision}]
    if lineage.provenance:
        pedigree["notes"] = lineage.provenance
    return pedigree


def _model_card(card: ModelCard) -> Document:
    facts = card.facts
    parameters: Document = {
        "inputs": [{"format": f"{each.datatype} {list(each.shape)}"} for each in card.inputs],
        "outputs": [{"format": f"{each.datatype} {list(each.shape)}"} for each in card.outputs],
    }
    if facts.task:
        parameters["task"] = facts.task
    if facts.data_sets:
        parameters["datasets"] = [{"ref": _data_reference(each)} for each in facts.data_sets]
    considerations: Document = {
        "useCases": list(facts.intended_uses),
        "technicalLimitations": [
            *facts.limitations,
            *(f"Not intended: {use}" for use in facts.prohibited_uses),
        ],
        "ethicalConsiderations": [{"name": each} for each in facts.ethical_considerations],
    }
    return {
        "modelParameters": parameters,
        "quantitativeAnalysis": {
            "performanceMetrics": [_metric(each) for each in card.lineage.metrics]
        },
        "considerations": {name: value for name, value in considerations.items() if value},
    }


def _metric(metric: Metric) -> Document:
    described: Document = {"type": metric.name, "value": repr(metric.value)}
    if metric.slice:
        described["slice"] = metric.slice
    if metric.low is not None and metric.high is not None:
        described["confidenceInterval"] = {
            "lowerBound": repr(metric.low),
            "upperBound": repr(metric.high),
        }
    return described


def _data_reference(data: Dataset) -> str:
    return f"data:{data.name}"


def _data(data: Dataset) -> Document:
    described: Document = {
        "type": "data",
        "bom-ref": _data_reference(data),
        "name": data.name,
        "data": [{"type": "dataset", "name": data.name}],
    }
    words = (data.origin, data.period, data.preparation, data.representativeness, data.known_gaps)
    if any(words):
        described["description"] = " ".join(each for each in words if each)
    if data.licence:
        described["licenses"] = [{"license": {"name": data.licence}}]
    if data.digest:
        described["hashes"] = [{"alg": "SHA-256", "content": data.digest}]
    return described


def _runtime(card: ModelCard) -> list[Document]:
    if not card.runtime.name:
        return []
    opsets = card.runtime.opsets.items()
    return [
        {
            "type": "framework",
            "bom-ref": f"runtime:{card.runtime.name}",
            "name": card.runtime.name,
            "version": card.runtime.version,
            "properties": [
                {"name": f"opset:{domain or 'ai.onnx'}", "value": str(number)}
                for domain, number in opsets
            ],
        }
    ]
