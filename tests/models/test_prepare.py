from pathlib import Path

import numpy as np
import pytest

from serving.registry.folder import DEFAULT_MODELS_DIR
from tests.models.scripts import prepare_script, samples, session_of

ROOT = DEFAULT_MODELS_DIR.parent


@pytest.mark.parametrize(
    ("file", "kind"),
    [
        ("pyproject.toml", "toml"),
        ("serving/settings.py", "python"),
        ("models/census-employment/metrics.json", "json"),
        ("models/census-employment/1.onnx", "onnx"),
        ("models/census-employment/samples/rows.npy", "npy"),
    ],
    ids=["toml", "python", "json", "onnx", "npy"],
)
def test_recognises_files_of_this_repository(file: str, kind: str) -> None:
    """`file-type` with its own preparation names real files rightly."""
    script, session = prepare_script("file-type"), session_of("file-type")
    assert session is not None

    (scores,) = session.run([script.prepare([(ROOT / file).read_bytes()])])

    assert script.label(scores[0])[0] == kind


def test_a_file_of_too_few_bytes_is_refused() -> None:
    """A file without eight bytes that are not white space is not for the model."""
    with pytest.raises(ValueError, match="at least 8"):
        prepare_script("file-type").prepare([b"   ab    "])


def test_a_short_file_is_padded_in_the_middle() -> None:
    """The start stands first, the end last, and 256 between them."""
    (row,) = prepare_script("file-type").prepare([b"  0123456789 \n"])

    assert bytes(row[:10].astype(np.uint8)) == b"0123456789"
    assert bytes(row[-10:].astype(np.uint8)) == b"0123456789"
    assert set(row[12:-12].tolist()) == {256}


@pytest.mark.parametrize("quarter", range(4))
def test_tells_how_a_page_is_turned(quarter: int) -> None:
    """`image-orientation` finds by how many degrees clockwise the sample page was turned."""
    script, session = prepare_script("image-orientation"), session_of("image-orientation")
    assert session is not None
    page = script.read_image(samples("image-orientation") / "page.pgm")

    (scores,) = session.run([script.prepare(np.rot90(page, -quarter))])

    assert script.CLASSES[int(scores[0].argmax())] == 90 * quarter


def test_refuses_a_picture_in_another_format(tmp_path: Path) -> None:
    """Anything but an 8-bit PGM or PPM is refused by name."""
    picture = tmp_path / "page.png"
    picture.write_bytes(b"\x89PNG")

    with pytest.raises(ValueError, match=r"page\.png"):
        prepare_script("image-orientation").read_image(picture)


def test_similar_sentences_are_close() -> None:
    """Two sentences about cats are nearer to each other than either is to one about a guitar."""
    script, session = prepare_script("sentence-embedding"), session_of("sentence-embedding")
    if session is None or not script.TOKENIZER.exists():
        pytest.skip("run models/sentence-embedding/fetch.py for this test")
    inputs = script.prepare(
        ["A cat sits on the mat.", "A kitten rests on a rug.", "He plays the guitar on stage."],
        script.Tokenizer(),
    )

    (states,) = session.run(list(inputs.values()))
    vectors = script.embed(states, inputs["attention_mask"])
    cosines = vectors @ vectors.T

    assert cosines[0, 1] > 0.5
    assert max(cosines[0, 2], cosines[1, 2]) < 0.25


def test_splits_sentences_into_words() -> None:
    """Lower case, accents off, punctuation and Chinese characters apart, control characters gone."""
    words = prepare_script("sentence-embedding").words

    assert list(words("Café, déjà-vu\x00!\t中文")) == [
        "cafe", ",", "deja", "-", "vu", "!", "中", "文",
    ]  # fmt: skip
