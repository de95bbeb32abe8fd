import hashlib
import tracemalloc
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from serving.core.batches import BatchAnswer, RowFailure, TensorBlock
from serving.core.models import Caching, Digest, ModelVersion, Recording, VersionName
from serving.core.predictions import Fate, PredictionRecord
from serving.core.principals import Role
from serving.errors import LogUnavailable, ServingError
from serving.gateway.cache import ResponseCache
from serving.gateway.calls import Call
from serving.gateway.forming import Frame
from tests.gateway.stand import (
    CANDIDATE,
    DOUBLER,
    Client,
    MemoryLink,
    Stand,
    a_request,
    a_snapshot,
    counted,
    doubled,
)

CACHED = replace(DOUBLER, cache=Caching(max_bytes=64 * 1024, ttl_s=10.0))


@pytest.fixture
def link(stand: Stand) -> MemoryLink:
    """The replica of a version whose answers are cached, and has no candidate."""
    return serve(stand, CACHED)


def serve(stand: Stand, version: ModelVersion, *, epoch: int = 2) -> MemoryLink:
    stand.pipeline.apply(a_snapshot(version, epoch=epoch, shadows=()))
    return stand.connect(MemoryLink(), version)


def ask(stand: Stand, link: MemoryLink, client: Client) -> Client:
    """Sends a request; the model answers it if it comes to that."""
    stand.send(client)
    while link.frames:
        link.answer()
        stand.turns.run()
    return client


def runs(stand: Stand, link: MemoryLink, *clients: Client) -> int:
    """How many of the requests came to the model."""
    before = len(link.sent)
    for client in clients:
        ask(stand, link, client)
        assert client.heard == 1
    return len(link.sent) - before


def cache(stand: Stand, version: ModelVersion = CACHED) -> ResponseCache:
    found = stand.queue(version).cache
    assert found is not None
    return found


def in_tenant(stand: Stand, value: float, tenant: str) -> Client:
    token = stand.issuer.issue(subject="ada", roles=[Role.CALLER], tenant=tenant)
    return Client(value, token=token)


def test_who_asks_the_same_gets_the_same_without_a_run(stand: Stand, link: MemoryLink) -> None:
    """The second answer is the first one's, and no model ran for it."""
    first = ask(stand, link, stand.client(3, rows=2))
    second = ask(stand, link, stand.client(3, rows=2, subject="bob"))

    assert first.answers == second.answers == [[6, 6, 6, 6]]
    assert (len(link.sent), cache(stand).hits, cache(stand).misses) == (1, 1, 1)


def test_a_hit_is_a_record_of_its_own(stand: Stand, link: MemoryLink) -> None:
    """The record of a hit holds who asked, what, and the answer; that it was cached, and no run."""
    ask(stand, link, stand.client(3))
    ask(stand, link, stand.client(3, subject="bob"))

    first, hit = stand.log.records
    assert (first.cached, hit.cached) == (False, True)
    assert first.prediction_id != hit.prediction_id
    assert (hit.principal, hit.version, hit.digest) == ("bob", DOUBLER.version, DOUBLER.digest)
    assert (hit.batch_id, hit.batch_size, hit.run_us, hit.queue_us) == (0, 0, 0, 0)
    assert [_values(each) for each in (first, hit)] == [([[3, 3]], [[6, 6]])] * 2


def test_hits_of_one_turn_keep_their_own_rows(stand: Stand, link: MemoryLink) -> None:
    """They are answered together, each with what was kept for it; who left meanwhile with nothing."""
    for value, rows in ((3, 2), (4, 1), (5, 3)):
        ask(stand, link, stand.client(value, rows=rows))
    clients = [stand.client(value, rows=rows) for value, rows in ((5, 3), (4, 1), (3, 2))]
    for client in clients:
        stand.pipeline.infer(client)
    clients[1].go_away()
    stand.turns.run()

    assert [client.answers for client in clients] == [[[10] * 6], [], [[6] * 4]]
    hits = stand.log.records[3:]
    assert [(each.fate, each.cached) for each in hits] == [
        (Fate.CLIENT_GONE, True),
        (Fate.OK, True),
        (Fate.OK, True),
    ]
    assert (len(link.sent), cache(stand).hits, stand.pipeline.admission.in_flight) == (3, 3, 0)


def _values(record: PredictionRecord) -> tuple[object, object]:
    return record.inputs[0].array.tolist(), record.outputs[0].array.tolist()


def test_a_hit_leaves_when_its_record_is_durable(stand: Stand, link: MemoryLink) -> None:
    """No record, no answer: a hit waits for the log like every answer, and is refused with it."""
    ask(stand, link, stand.client(3))
    stand.log.held = True
    hit = ask(stand, link, stand.client(3))
    waiting = hit.heard
    stand.log.commit()
    stand.log.failure = LogUnavailable("no disk")
    refused = ask(stand, link, stand.client(3))
    stand.log.commit()

    assert (waiting, hit.answers) == (0, [[6, 6]])
    assert (refused.answers, refused.codes) == ([], ["log_unavailable"])
    assert (len(link.sent), stand.pipeline.admission.in_flight) == (1, 0)


@pytest.mark.parametrize("other", ["value", "rows", "columns", "tenant", "no tenant"])
def test_what_differs_is_asked_again(stand: Stand, other: str) -> None:
    """Another byte, another number of rows, another shape or another tenant is another question."""
    version = replace(
        CACHED,
        inputs=(replace(DOUBLER.inputs[0], shape=(-1, -1)),),
        outputs=(replace(DOUBLER.outputs[0], shape=(-1, -1)),),
    )
    link = serve(stand, version)
    ask(stand, link, in_tenant(stand, 0, "acme"))

    client = {
        "value": lambda: in_tenant(stand, -0.0, "acme"),
        "rows": lambda: stand.client(0, rows=2, columns=1),
        "columns": lambda: stand.client(0, rows=1, columns=4),
        "tenant": lambda: in_tenant(stand, 0, "other"),
        "no tenant": lambda: stand.client(0),
    }[other]()

    assert runs(stand, link, client) == 1
    assert runs(stand, link, in_tenant(stand, 0, "acme")) == 0


def test_rows_and_columns_of_the_same_bytes_are_not_confused(stand: Stand) -> None:
    """Two rows of one number and one row of two have the same bytes and different keys."""
    version = replace(
        CACHED,
        inputs=(replace(DOUBLER.inputs[0], shape=(-1, -1)),),
        outputs=(replace(DOUBLER.outputs[0], shape=(-1, -1)),),
    )
    link = serve(stand, version)

    shapes = [(1, 2), (2, 1)]
    assert runs(stand, link, *(stand.client(3, rows=r, columns=c) for r, c in shapes)) == 2


def test_another_digest_knows_nothing(stand: Stand, link: MemoryLink) -> None:
    """A version that changes begins with an empty cache, whatever its name is."""
    ask(stand, link, stand.client(3))
    changed = replace(CACHED, digest=Digest("cd" * 32))
    new = serve(stand, changed, epoch=3)

    assert runs(stand, new, stand.client(3)) == 1
    assert stand.log.records[-1].digest == changed.digest


def test_an_answer_that_another_version_gave_is_not_kept(stand: Stand, link: MemoryLink) -> None:
    """A call that was handed over to another version leaves nothing behind where it came from."""
    waiting = stand.client(3)
    link.ready = False
    old, both = stand.queue(CACHED), replace(CACHED, version=VersionName("2"))
    link.ready = True
    cache_before = cache(stand)
    stand.pipeline.infer(waiting)
    stand.pipeline.apply(a_snapshot(CACHED, both, epoch=3, shadows=()))
    old.links.clear()
    other = stand.connect(MemoryLink(lambda array: array + 1), both)
    assert old.hand_over(stand.queue(both)) == 1
    stand.turns.run()
    ask(stand, other, stand.client(9))

    assert waiting.answers == [[4, 4]]
    assert (cache_before.held_bytes, cache_before.misses) == (0, 1)


@pytest.mark.parametrize("how", ["model", "log", "gone"])
def test_only_answers_that_left_are_kept(stand: Stand, link: MemoryLink, how: str) -> None:
    """A failure, an answer that was not recorded and one that nobody heard are not given again."""
    client = stand.client(3)
    stand.send(client)
    if how == "gone":
        client.go_away()
    stand.log.failure = LogUnavailable("no disk") if how == "log" else None
    link.answer({0: RowFailure.MODEL_ERROR} if how == "model" else None)
    stand.turns.run()
    stand.log.failure = None

    assert (client.answers, cache(stand).held_bytes) == ([], 0)
    assert runs(stand, link, stand.client(3)) == 1


def test_who_names_a_data_subject_passes_by(stand: Stand, link: MemoryLink) -> None:
    """Neither found nor kept, whoever asked before: an erasure finds nothing here."""
    ask(stand, link, stand.client(3))
    held = cache(stand).held_bytes
    client, request = stand.client(3), a_request(3)
    request.name_subject(b"customer-4711")
    call = Call(stand.pipeline, stand.queue(CACHED), request, b"ada")
    call.exchange = client

    assert not cache(stand).answers(call, "", stand.pipeline.answered)
    assert call.exchange is client
    assert (cache(stand).held_bytes, cache(stand).hits, cache(stand).misses) == (held, 0, 1)


def test_who_chooses_the_version_tries_the_version(stand: Stand, link: MemoryLink) -> None:
    """A request that names the version is run, and its answer is not kept."""
    chosen = [stand.client(3, version="1", role=Role.OPERATOR) for _ in range(2)]

    assert runs(stand, link, *chosen) == 2
    assert (cache(stand).misses, cache(stand).held_bytes) == (0, 0)


def test_a_version_that_could_not_answer_gives_no_old_answers(
    stand: Stand, link: MemoryLink
) -> None:
    """Without a replica a request waits, though its answer is known."""
    ask(stand, link, stand.client(3))
    link.ready = False
    client = stand.client(3)
    stand.send(client)
    waiting = client.heard
    stand.pass_time(2)

    assert (waiting, client.codes) == (0, ["no_replica"])


def test_an_answer_grows_old(stand: Stand, link: MemoryLink) -> None:
    """After its time an answer is asked for again, and kept again; it counts once."""
    ask(stand, link, stand.client(3))
    held = cache(stand).held_bytes
    stand.clock.advance(9.9)
    young = runs(stand, link, stand.client(3))
    stand.clock.advance(0.2)
    old = runs(stand, link, stand.client(3))

    assert (young, old) == (0, 1)
    assert (cache(stand).held_bytes, cache(stand).evictions) == (held, 0)
    assert runs(stand, link, stand.client(3)) == 0


def test_the_one_not_asked_for_the_longest_makes_room(stand: Stand) -> None:
    """Full is full: what was used lately stays; what is larger than all of it is not kept."""
    small = replace(DOUBLER, cache=Caching(max_bytes=4 * 1100, ttl_s=10.0))
    link = serve(stand, small)
    runs(stand, link, *(stand.client(value) for value in (1, 2, 3, 4)))
    runs(stand, link, stand.client(1))

    assert runs(stand, link, stand.client(5)) == 1
    assert runs(stand, link, stand.client(1), stand.client(3)) == 0
    assert runs(stand, link, stand.client(2)) == 1
    assert runs(stand, link, *(stand.client(6, rows=600) for _ in range(2))) == 2
    assert cache(stand, small).evictions == 2
    assert cache(stand, small).held_bytes <= 4 * 1100


def test_the_bound_is_what_python_takes(stand: Stand) -> None:
    """What the cache says that it holds is at least what it takes from the process."""
    large = Caching(max_bytes=64 * 1024 * 1024, ttl_s=10.0)
    version = replace(DOUBLER, cache=large)
    serve(stand, version)
    known = ResponseCache(version, large, clock=stand.clock, call_soon=stand.turns.call_soon)
    queue = stand.queue(version)
    queue.cache = known
    tracemalloc.start()
    for number in range(2000):
        keep(known, Call(stand.pipeline, queue, a_request(number), b"ada"), number)
    taken = tracemalloc.get_traced_memory()[0]
    tracemalloc.stop()

    assert 0.5 * known.held_bytes < taken < known.held_bytes


def keep(known: ResponseCache, call: Call, number: int) -> None:
    array = doubled(np.frombuffer(call.inputs[0], np.float32).reshape(1, 2))
    frame = call.frame = Frame(call.queue, [])
    frame.answer = BatchAnswer(1, (TensorBlock.of(array),), ())
    call.outputs = (memoryview(array.tobytes()),)
    known.keep(hashlib.sha256(b"%d" % number).digest(), call)


def test_hits_are_mirrored_like_other_answers(stand: Stand) -> None:
    """The candidate sees what callers ask: a hit is copied, and the copy is run, not looked up."""
    twin = replace(CANDIDATE, cache=CACHED.cache)
    stand.pipeline.apply(a_snapshot(CACHED, twin, epoch=2, shadows=("2",)))
    link = stand.connect(MemoryLink(), CACHED)
    candidate = stand.connect(MemoryLink(), twin)
    for _ in range(3):
        ask(stand, link, stand.client(3))
        candidate.answer()
        stand.turns.run()

    answered = [record for record in stand.log.records if not record.shadow_of]
    copies = [record for record in stand.log.records if record.shadow_of]
    assert [record.cached for record in answered] == [False, True, True]
    assert {record.shadow_of for record in copies} == {each.prediction_id for each in answered}
    assert not any(record.cached for record in copies)


def test_hits_are_counted_as_answers_that_took_no_model_time(
    stand: Stand, link: MemoryLink
) -> None:
    """They are requests that ended well; batches, queues and model time are of runs alone."""
    runs(stand, link, *(stand.client(3) for _ in range(5)))

    assert counted(stand, "serving_requests_total{", 'fate="ok"') == 5
    assert counted(stand, "serving_request_duration_seconds_count{") == 5
    assert counted(stand, "serving_queue_seconds_count{") == 1
    assert counted(stand, "serving_batch_rows_count{") == 1


def test_a_hit_is_refused_where_a_request_would_be(stand: Stand, link: MemoryLink) -> None:
    """Who may not ask the model is told so, though the answer is known."""
    ask(stand, link, stand.client(3))
    stranger = Client(
        3, token=stand.issuer.issue(subject="eve", roles=[Role.CALLER], models=["other"])
    )

    with pytest.raises(ServingError, match="may not use"):
        stand.send(stranger)


@pytest.mark.parametrize("policy", ["at_least_once", "best_effort"])
def test_other_policies_keep_their_word_for_hits(stand: Stand, policy: str, tmp_path: Path) -> None:
    """A hit of a version that does not wait for its record leaves at once, and is recorded."""
    version = replace(CACHED, recording=Recording(policy=policy))  # type: ignore[arg-type]  # one of three
    link = serve(stand, version)
    ask(stand, link, stand.client(3))

    hit = ask(stand, link, stand.client(3))

    assert (hit.answers, len(link.sent)) == ([[6, 6]], 1)
    assert [record.cached for record in stand.log.records] == [False, True]
