"""Orders and questions at the registry's desk: exact bodies, carried out once, bounded answers."""

from typing import Any

import msgspec
import pytest

from serving.core.calls import Call
from serving.errors import (
    DigestChanged,
    FieldUnknown,
    KeyReused,
    ModelNotFound,
    NotFound,
    ParameterInvalid,
    RequestInvalid,
)
from serving.storage.database import Database
from tests.registries import ADA, BOB, DEFINITION, RegistryStand, digest_of, person

MODEL = {"name": "fraud", "facts": {"owner": "ada"}}
VERSION = {"version": "1", "digest": digest_of("1"), "definition": DEFINITION}


@pytest.fixture
def stand(database: Database) -> RegistryStand:
    return RegistryStand(database)


def register(stand: RegistryStand, **version: Any) -> dict[str, Any]:
    answer = stand.order("register_version", VERSION | version, arguments={"model": "fraud"})
    decoded: dict[str, Any] = msgspec.json.decode(answer.content)
    return decoded


def test_rg_03_the_same_order_twice_is_carried_out_once(stand: RegistryStand) -> None:
    """Under one idempotency key the second time gets the first answer, and nothing more happens."""
    first = stand.order("register_model", MODEL, key="k1")
    second = stand.order("register_model", MODEL, key="k1")

    assert (first.content, second.content) == (first.content, first.content)
    assert (first.repeated, second.repeated) == (False, True)
    assert stand.events() == ["model:registered"]


def test_rg_03_another_order_under_the_same_key_is_refused(stand: RegistryStand) -> None:
    """409, whatever differs: the body, or what it is about."""
    stand.order("register_model", MODEL, key="k1")

    with pytest.raises(KeyReused):
        stand.order("register_model", MODEL | {"name": "other"}, key="k1")
    with pytest.raises(KeyReused):
        stand.order("register_version", MODEL, key="k1", arguments={"model": "fraud"})


def test_keys_belong_to_whoever_uses_them(stand: RegistryStand) -> None:
    """Somebody else's key is another key, and never shows somebody else's answer."""
    stand.order("register_model", MODEL, key="k1")

    answer = stand.order("register_model", MODEL | {"name": "bobs"}, key="k1", actor=BOB)

    assert (b'"bobs"' in answer.content, answer.repeated) == (True, False)


def test_a_refused_order_does_not_use_up_its_key(stand: RegistryStand) -> None:
    """What failed was not carried out, so the same key can carry it out once it can be."""
    with pytest.raises(ModelNotFound):
        stand.order("register_version", VERSION, key="k", arguments={"model": "fraud"})
    stand.order("register_model", MODEL)

    answer = stand.order("register_version", VERSION, key="k", arguments={"model": "fraud"})

    assert not answer.repeated


def test_az_08_a_model_has_no_field_that_callers_do_not_decide(stand: RegistryStand) -> None:
    """Mass assignment is refused by name."""
    for field in ("tenant", "revision", "created_by", "owner", "approved", "role"):
        with pytest.raises(FieldUnknown, match=field):
            stand.order("register_model", MODEL | {field: "x"})


def test_az_08_a_version_has_no_field_that_callers_do_not_decide(stand: RegistryStand) -> None:
    """Neither its state nor its author is anybody's to say."""
    stand.order("register_model", MODEL)

    for field in ("state", "author", "approved", "model", "runtime", "inspection"):
        with pytest.raises(FieldUnknown, match=field):
            register(stand, **{field: "approved"})


def test_a_version_is_registered_as_declared(stand: RegistryStand) -> None:
    """Its definition is that of a `model.yaml`, and comes back with its author and state."""
    stand.order("register_model", MODEL)

    found = register(stand, lineage={"code_revision": "abc", "parameters": {"trees": 60}})

    assert (found["state"], found["author"], found["digest"]) == (
        "registered",
        "ada",
        digest_of("1"),
    )
    assert found["lineage"]["parameters"] == {"trees": 60}
    assert found["definition"]["inputs"][0]["shape"] == [-1, 2]


def test_an_artifact_must_have_been_uploaded(stand: RegistryStand) -> None:
    """A digest that is nothing's makes no version."""
    stand.order("register_model", MODEL)

    with pytest.raises(NotFound, match="uploaded"):
        register(stand, digest="f" * 64)

    assert stand.ask("versions", arguments={"model": "fraud"}) == {"versions": []}


ODD_VERSIONS: tuple[dict[str, Any], ...] = (
    {"definition": {}},
    {"definition": DEFINITION | {"odd": 1}},
    {"definition": DEFINITION | {"inputs": []}},
    {"definition": DEFINITION | {"batching": {"max_batch_size": 0}}},
    {"digest": "x"},
    {"digest": digest_of("1")[:-1] + "A"},
    {"version": "../1"},
    {"lineage": {"parent": "0"}},
)


def test_what_a_version_says_is_checked(stand: RegistryStand) -> None:
    """A definition that could not be served is refused when it is registered."""
    stand.order("register_model", MODEL)

    for version in ODD_VERSIONS:
        with pytest.raises(ParameterInvalid):
            register(stand, **version)


def test_a_body_that_is_no_order_is_refused(stand: RegistryStand) -> None:
    """Whatever comes, the answer says that it is not what this route takes."""
    for body in (b"", b"{", b"[]", b'{"name": 1}', b"\xff", b"[" * 100_000):
        with pytest.raises(RequestInvalid):
            stand.desk.carry_out("register_model", Call(ADA, body=body))


def test_rg_05_a_replaced_artifact_is_a_conflict(stand: RegistryStand) -> None:
    """`digest_changed`, also through the desk."""
    stand.order("register_model", MODEL)
    register(stand)

    with pytest.raises(DigestChanged) as refused:
        register(stand, digest=digest_of("2"))

    assert refused.value.code == "digest_changed"


def test_history_goes_page_by_page(stand: RegistryStand) -> None:
    """Each page says where the next begins; together they are everything, once."""
    stand.order("register_model", MODEL)
    for version in ("1", "2", "3"):
        register(stand, version=version)
    names, after = [], -1
    while True:
        query = {"after": str(after), "limit": "2"}
        page = stand.ask("history", arguments={"model": "fraud"}, query=query)
        names += [each["object"] for each in page["events"]]
        after = page["next"]
        if after < 0:
            break

    assert names == ["model:fraud", "version:fraud@1", "version:fraud@2", "version:fraud@3"]


def test_a_search_that_is_none_is_refused(stand: RegistryStand) -> None:
    """An unknown word or a value out of range is named, not ignored."""
    for query in ({"limit": "0"}, {"limit": "x"}, {"limit": "201"}, {"odd": "1"}, {"state": "x"}):
        with pytest.raises(ParameterInvalid):
            stand.ask("search", query=query)


def test_az_06_nothing_at_the_desk_shows_another_tenants_model(stand: RegistryStand) -> None:
    """Every question about it, cards and materials included, is 404."""
    tess = person("tess", tenant="acme")
    stand.order("register_model", MODEL | {"name": "secret"}, actor=tess)
    stand.order("register_version", VERSION, actor=tess, arguments={"model": "secret"})
    arguments = {"model": "secret", "version": "1"}

    for question in ("model", "history", "versions", "version", "aliases", "card", "bom"):
        assert stand.ask(question, actor=tess, arguments=arguments)
        with pytest.raises(ModelNotFound):
            stand.ask(question, arguments=arguments)
    assert stand.ask("search") == {"models": [], "next": ""}
