"""The model card and the bill of materials: all that the registry knows, and nothing else."""

from typing import Any

import msgspec
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from hypothesis import given
from hypothesis import strategies as st

from serving.registry.bom import bill_of_materials
from serving.registry.cards import Change, ModelCard, markdown, model_card
from serving.registry.entities import (
    Dataset,
    Lineage,
    Metric,
    ModelFacts,
    RegisteredModel,
    RegisteredVersion,
    RiskTier,
    Runtime,
)
from serving.registry.lifecycle import State
from tests.registries import digest_of, version_of

FACTS = ModelFacts(
    owner="ada",
    team="risk",
    purpose="Finds card fraud.",
    description="Scores payments.",
    task="tabular-classification",
    licence="Apache-2.0",
    risk_tier=RiskTier.LIMITED,
    contacts=("risk@example.org",),
    data_sets=(Dataset(name="cards-2025", origin="own", licence="internal", digest="a" * 64),),
    intended_uses=("Flag payments for review.",),
    prohibited_uses=("Refuse payments alone.",),
    limitations=("Trained on one country.",),
    ethical_considerations=("May flag travellers more often.",),
)
LINEAGE = Lineage(
    training_manifest="b" * 64,
    code_revision="abc123",
    parameters={"trees": 60},
    metrics=(
        Metric(name="accuracy", value=0.91, low=0.9, high=0.92, n=5000, data_set="cards-2025"),
        Metric(name="accuracy", value=0.85, slice="age < 25", n=400, data_set="cards-2025"),
    ),
    parent="0",
    provenance="Trained by hand.",
)


def a_card(facts: ModelFacts = FACTS, lineage: Lineage = LINEAGE, **other: Any) -> ModelCard:
    model = RegisteredModel(
        name="fraud",
        tenant="",
        facts=facts,
        created_ns=1,
        created_by="ada",
        updated_ns=1,
        revision=1,
    )
    version = RegisteredVersion(
        model="fraud",
        version="1",
        digest=digest_of("1"),
        definition=version_of("fraud"),
        author="ada",
        author_owner="",
        state=State.APPROVED,
        description="",
        lineage=lineage,
        runtime=Runtime(name="onnxruntime", version="1.31.1", opsets={"": 17, "ai.onnx.ml": 3}),
        inspection=None,
        created_ns=1_700_000_000 * 10**9,
        changed_ns=1,
        revision=3,
    )
    return model_card(model, version, **other)


def is_valid(document: dict[str, Any]) -> object:
    """What the schema of CycloneDX 1.6 says against it, None for nothing."""
    text = msgspec.json.encode(document).decode()
    return JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)


def test_a_complete_card_says_everything() -> None:
    """All nine sections have their facts, and none is said to be missing."""
    text = markdown(a_card(history=[Change(1, "registry:version:approved", "bob", "fine")]))

    sections = [line for line in text.splitlines() if line.startswith("## ")]
    assert [s.split()[1].rstrip(".") for s in sections[:9]] == [str(n) for n in range(1, 10)]
    for fact in ("Finds card fraud.", "Refuse payments alone.", "age &lt; 25", "0.9 to 0.92"):
        assert fact in text
    for fact in ("cards-2025", "abc123", "One country".lower(), "bob", digest_of("1")):
        assert fact in text.lower() or fact in text
    assert "Not recorded" not in text
    assert a_card().missing == ()


def test_what_nobody_recorded_is_named() -> None:
    """An empty registry makes a card of gaps, not of inventions."""
    card = a_card(ModelFacts(owner="ada"), Lineage())

    assert {each.split(":")[0] for each in card.missing} == {
        "details",
        "intended use",
        "factors",
        "metrics",
        "evaluation data",
        "training data",
        "ethical considerations",
        "caveats",
    }
    assert "## Not recorded" in markdown(card)


def test_the_same_registry_makes_the_same_documents() -> None:
    """Nothing in them is of the moment in which they are made."""
    assert markdown(a_card()) == markdown(a_card())
    assert bill_of_materials(a_card()) == bill_of_materials(a_card())


@pytest.mark.parametrize("card", [a_card(), a_card(ModelFacts(owner="ada"), Lineage())])
def test_the_bill_of_materials_is_cyclonedx(card: ModelCard) -> None:
    """The official schema has nothing against it, whether much or little is known."""
    assert is_valid(bill_of_materials(card)) is None


def test_the_bill_of_materials_has_the_card_in_it() -> None:
    """Hashes, licences, pedigree, data, runtime, figures with parts and intervals, considerations."""
    document = bill_of_materials(a_card())
    component = document["metadata"]["component"]
    card = component["modelCard"]

    assert (component["type"], component["hashes"][0]["content"]) == (
        "machine-learning-model",
        digest_of("1"),
    )
    assert component["pedigree"]["commits"] == [{"uid": "abc123"}]
    assert [part["type"] for part in document["components"]] == ["data", "framework"]
    assert card["modelParameters"]["datasets"] == [{"ref": "data:cards-2025"}]
    figures = card["quantitativeAnalysis"]["performanceMetrics"]
    assert figures[0]["confidenceInterval"] == {"lowerBound": "0.9", "upperBound": "0.92"}
    assert figures[1]["slice"] == "age < 25"
    assert card["considerations"]["useCases"] == ["Flag payments for review."]


def headings(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.lstrip("- ").startswith("#")]


@given(st.text(max_size=40) | st.text(alphabet="#>-=|<`*[]1.)x \n\\", min_size=1, max_size=12))
def test_no_text_breaks_out_of_a_card(text: str) -> None:
    """Whatever an owner writes stays one line of text: no row, heading or tag of its own."""
    plain = msgspec.structs.replace(FACTS, purpose="x", contacts=("x",), limitations=("x",))
    facts = msgspec.structs.replace(FACTS, purpose=text, contacts=(text,), limitations=(text,))

    made = markdown(a_card(facts))

    said = [line for line in headings(made) if line != "## Not recorded"]
    assert said == headings(markdown(a_card(plain)))
    assert is_valid(bill_of_materials(a_card(facts))) is None


def test_a_heading_is_text_where_an_owner_writes_it() -> None:
    """Neither a heading, nor a list, nor HTML, nor a new row."""
    for text, shown in (
        ("# x", "\\# x"),
        ("1. x", "1\\. x"),
        ("- x", "\\- x"),
        ("<script>", "&lt;script>"),
        ("a | b", "a \\| b"),
    ):
        card = a_card(msgspec.structs.replace(FACTS, purpose=text))
        assert f"\n{shown}\n" in markdown(card)
