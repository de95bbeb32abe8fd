"""Turns sentences into an inference request for `sentence-embedding`, and answers into vectors.

    python models/sentence-embedding/prepare.py "A sentence." "Another." > request.json

Standard library and numpy only; needs the fetched `tokenizer.json`. WordPiece after Wu et al. (2016)
with the normalisation of BERT (Devlin et al., 2018): lower case, accents stripped, punctuation
apart, longest known piece first, [CLS] and [SEP] around, at most 128 tokens, padded to the longest
sentence. Chinese characters are split one by one.
"""

import argparse
import json
import sys
import unicodedata
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

TOKENIZER: Final = Path(__file__).parent / "tokenizer.json"
MAX_TOKENS: Final = 128
MAX_WORD: Final = 100
UNKNOWN, START, END = 100, 101, 102
CHINESE: Final = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B73F),
                  (0x2B740, 0x2B81F), (0x2B920, 0x2CEAF), (0xF900, 0xFAFF), (0x2F800, 0x2FA1F))  # fmt: skip

Inputs = dict[str, NDArray[np.int64]]


class Tokenizer:
    """WordPiece over the vocabulary of `tokenizer.json`."""

    def __init__(self, path: Path = TOKENIZER) -> None:
        self._vocabulary: dict[str, int] = json.loads(path.read_text())["model"]["vocab"]

    def encode(self, sentence: str) -> list[int]:
        pieces = [piece for word in words(sentence) for piece in self._pieces(word)]
        return [START, *pieces[: MAX_TOKENS - 2], END]

    def _pieces(self, word: str) -> list[int]:
        pieces: list[int] = []
        start = 0
        while start < len(word):
            prefix = "##" if start else ""
            ends = range(len(word), start, -1)
            end = next((e for e in ends if prefix + word[start:e] in self._vocabulary), None)
            if end is None or len(word) > MAX_WORD:
                return [UNKNOWN]
            pieces.append(self._vocabulary[prefix + word[start:end]])
            start = end
        return pieces


def prepare(sentences: list[str], tokenizer: Tokenizer) -> Inputs:
    """The three inputs, each int64 (sentences, longest sentence)."""
    encoded = [tokenizer.encode(sentence) for sentence in sentences]
    ids = np.zeros((len(encoded), max(map(len, encoded))), dtype=np.int64)
    mask = np.zeros_like(ids)
    for row, tokens in enumerate(encoded):
        ids[row, : len(tokens)] = tokens
        mask[row, : len(tokens)] = 1
    return {"input_ids": ids, "attention_mask": mask, "token_type_ids": np.zeros_like(ids)}


def embed(states: NDArray[np.float32], mask: NDArray[np.int64]) -> NDArray[np.float32]:
    """One vector of length 1 per sentence, (sentences, 384): the mean over its tokens, scaled."""
    shares = mask[..., None].astype(np.float32)
    mean = (states * shares).sum(axis=1) / shares.sum(axis=1)
    return np.asarray(mean / np.linalg.norm(mean, axis=1, keepdims=True))


def words(sentence: str) -> Iterator[str]:
    """Words and punctuation marks, lower case and without accents."""
    plain = unicodedata.normalize("NFD", sentence.replace("\ufffd", "").lower())
    kept = (c for c in plain if unicodedata.category(c) != "Mn")
    apart = (f" {c} " if _stands_alone(c) else _spaced(c) for c in kept)
    yield from "".join(apart).split()


def _stands_alone(character: str) -> bool:
    code = ord(character)
    ascii_mark = character.isascii() and character.isprintable() and not character.isalnum()
    return (
        (ascii_mark and character != " ")
        or unicodedata.category(character).startswith("P")
        or any(low <= code <= high for low, high in CHINESE)
    )


def _spaced(character: str) -> str:
    """White space as a space, control characters as nothing."""
    if character.isspace():
        return " "
    return "" if unicodedata.category(character).startswith("C") else character


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("sentences", nargs="+")
    inputs = prepare(parser.parse_args().sentences, Tokenizer())
    tensors = [
        {"name": name, "shape": array.shape, "datatype": "INT64", "data": array.ravel().tolist()}
        for name, array in inputs.items()
    ]
    json.dump({"inputs": tensors}, sys.stdout)


if __name__ == "__main__":
    main()
