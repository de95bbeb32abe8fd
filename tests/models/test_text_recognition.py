"""Reading text in pictures: the graphs between the networks, and the whole on its sample page."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray

from serving.core.tensors import Array
from serving.errors import ArtifactMissing
from serving.registry.folder import DEFAULT_MODELS_DIR, CatalogueEntry, load_catalogue
from tests.instances import Instance
from tests.models.scripts import prepare_script, samples, session_of

MODEL = "text-recognition"
FETCH = "its networks are not here: python models/text-recognition/fetch.py"
LEAST_SIDE = 3
LEAST_SCORE = 0.5
UNCLIP = 0.8


def run(model: str, *inputs: Array) -> list[Array]:
    """What the model gives for whole tensors, batched or not."""
    session = session_of(model)
    assert session is not None, f"{model} is part of the repository"
    if session.version.batched:
        return session.run(inputs)
    return [output[0] for output in session.run([each[None] for each in inputs])]


def page() -> NDArray[np.uint8]:
    picture: NDArray[np.uint8] = prepare_script(MODEL).read_picture(
        (samples(MODEL) / "page.pgm").read_bytes()
    )
    return picture


def page_text() -> list[str]:
    return (samples(MODEL) / "page.txt").read_text().splitlines()


def ensemble() -> CatalogueEntry:
    try:
        return load_catalogue(DEFAULT_MODELS_DIR).entry(MODEL, "1")
    except ArtifactMissing:
        pytest.skip(FETCH)


def flooded(mask: NDArray[np.bool_]) -> Iterator[NDArray[np.intp]]:
    """Rows and columns of every group of touching pixels, the plain way."""
    left = {(int(y), int(x)) for y, x in zip(*np.nonzero(mask), strict=True)}
    while left:
        reached, edge = set(), [left.pop()]
        while edge:
            y, x = edge.pop()
            reached.add((y, x))
            around = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= around
            edge += around
        yield np.array(sorted(reached)).T


@pytest.mark.parametrize("seed", range(4))
def test_boxes_are_those_of_a_flood_fill(seed: int) -> None:
    """Groups of touching pixels have the boxes that a plain flood fill finds, grown as declared."""
    generator = np.random.default_rng(seed)
    bits = generator.random((64, 96)) < (0.45, 0.2, 0.12, 0.05)[seed]
    grown = bits.copy()  # As the graph does: each pixel also marks those right of it and below.
    grown[1:] |= bits[:-1]
    grown[:, 1:] |= grown[:, :-1]
    likely = np.where(bits, 1.0, 0.29).astype(np.float32)
    expected = []
    for rows, columns in flooded(grown):
        width, height = np.ptp(columns) + 1, np.ptp(rows) + 1
        if min(width, height) >= LEAST_SIDE and likely[rows, columns].mean() >= LEAST_SCORE:
            by = UNCLIP * width * height / (width + height)
            corners = (
                columns.min() - by,
                rows.min() - by,
                columns.max() + 1 + by,
                rows.max() + 1 + by,
            )
            expected.append(np.clip(corners, 0, (96, 64, 96, 64)).tolist())
    picture = np.zeros((64, 96, 3), np.uint8)

    found = run("text-lines", likely[None, None], picture)[0]

    assert len(expected) > 0
    assert np.allclose(sorted(found.tolist()), sorted(expected), atol=1e-3)


def test_a_page_without_text_has_no_lines() -> None:
    """Nothing is found, and nothing has rows."""
    nothing = np.zeros((1, 1, 64, 64), np.float32)

    outputs = run("text-lines", nothing, np.zeros((64, 64, 3), np.uint8))

    assert [output.shape[0] for output in outputs] == [0, 0, 0, 0]


def test_a_line_is_cut_out_and_scaled() -> None:
    """A crop holds what is in its box: here a bar that is white on its left half."""
    picture = np.zeros((48, 400, 3), np.uint8)
    picture[:, :200] = 255
    likely = np.zeros((1, 1, 48, 400), np.float32)
    likely[..., 20:28, 20:380] = 1

    box, crop, small, width = run("text-lines", likely, picture)

    assert (box.shape, crop.shape, small.shape) == ((1, 4), (1, 3, 48, 960), (1, 3, 48, 192))
    columns = int(width[0, 0])
    assert float(crop[0, 0, 24, columns // 4].astype(float)) == 1
    assert float(crop[0, 0, 24, 3 * columns // 4].astype(float)) == -1
    assert not crop[0, :, :, columns:].any()


def test_what_is_turned_twice_is_as_before() -> None:
    """Lines that are upside down are turned within their own width; the others stay."""
    generator = np.random.default_rng(7)
    crop = generator.random((2, 3, 48, 64)).astype(np.float32)
    width = np.array([[40], [64]])
    crop[0, :, :, 40:] = 0
    turned = np.array([[0.05, 0.95], [0.5, 0.5]], np.float32)

    (once,) = run("text-upright", crop, width, turned)
    (twice,) = run("text-upright", once, width, turned)

    assert np.array_equal(once[0, :, :, :40], crop[0, :, ::-1, 39::-1])
    assert np.array_equal(once[1], crop[1])
    assert np.array_equal(twice, crop)


def test_the_best_path_is_decoded() -> None:
    """Repeated characters count once, blanks part them, and the confidence is their mean."""
    steps = [0, 10, 10, 0, 10, 20, 6624, 0]
    scores = np.zeros((2, len(steps), 6625), np.float32)
    scores[0, range(len(steps)), steps] = [0.9, 0.5, 1, 0.9, 0.7, 0.9, 0.6, 1]
    scores[1, :, 0] = 1

    text, confidence = run("text-decoding", scores)

    first = text.tolist()[0].decode()
    assert len(first) == 4
    assert (first[0], first[-1]) == (first[1], " ")
    assert text.tolist()[1] == b""
    assert confidence.tolist() == pytest.approx([(0.5 + 0.7 + 0.9 + 0.6) / 4, 0])


def test_the_sample_page_is_read() -> None:
    """Stage by stage, as the specification says: every line, also the one that is upside down."""
    stages = ensemble().version.stages
    catalogue = load_catalogue(DEFAULT_MODELS_DIR)
    pool: dict[str, Array] = {"picture": page()}
    for stage in stages:
        declared = catalogue.entry(stage.model, stage.version).version
        taken = dict(stage.inputs)
        outputs = run(stage.model, *(pool[taken[each.name]] for each in declared.inputs))
        given = dict(zip([each.name for each in declared.outputs], outputs, strict=True))
        pool |= {tensor: given[name] for name, tensor in stage.outputs}

    assert [each.decode() for each in pool["text"].tolist()] == page_text()
    assert min(pool["confidence"].tolist()) > 0.9


@pytest.mark.faults
def test_a_running_instance_reads_the_sample_page(tmp_path: Path) -> None:
    """Deployed by its name alone; one request, one record, and a part for each of the seven stages."""
    ensemble()
    body, json_bytes = prepare_script(MODEL).encode(page())
    deployment = {"model": MODEL, "stable": "1"}
    patience = {"default_deadline_s": 60}
    with Instance(tmp_path, deployments=[deployment], admission=patience) as instance:
        instance.expect("ready")
        answer = httpx.post(
            f"{instance.url}/v2/models/{MODEL}/infer",
            content=body,
            headers={
                "Authorization": f"Bearer {instance.token()}",
                "Inference-Header-Content-Length": f"{json_bytes}",
            },
            timeout=60,
        )

    outputs = {each["name"]: each for each in answer.json()["outputs"]}
    assert outputs["text"]["data"] == page_text()
    assert outputs["box"]["shape"] == [4, 4]
