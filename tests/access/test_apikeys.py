"""API keys: recognisable, looked up by their public part, kept as a keyed hash, compared blindly."""

import re
import secrets
import statistics
from pathlib import Path

import pytest

from serving.access.apikeys import KnownKeys, digest_of, new_secret, read_pepper
from serving.access.state import ApiKey
from serving.core.clock import SystemClock
from serving.core.principals import Role
from serving.errors import StartFailed

PEPPER = secrets.token_bytes(32)


def known(count: int = 1) -> tuple[KnownKeys, list[str]]:
    """Keys that are known, and their texts."""
    made = [new_secret() for _ in range(count)]
    keys = {
        name: ApiKey(
            key=name,
            digest=digest_of(text.encode(), PEPPER),
            subject="ci",
            roles=(Role.CALLER,),
            expires_s=2**40,
        )
        for name, text in made
    }
    return KnownKeys(keys, PEPPER), [text for _, text in made]


def test_a_key_can_be_recognised_and_never_repeats() -> None:
    """Prefix, identifier, secret: hexadecimal, so that a search finds leaked ones."""
    texts = {new_secret()[1] for _ in range(1000)}

    assert len(texts) == 1000
    assert all(re.fullmatch("svk_[0-9a-f]{12}_[0-9a-f]{64}", text) for text in texts)


def test_nothing_kept_of_a_key_is_the_key() -> None:
    """Who reads the file with the keys, without the pepper, has nothing to send and nothing to test."""
    name, text = new_secret()
    digest = digest_of(text.encode(), PEPPER)

    assert text.rpartition("_")[2] not in digest
    assert digest != digest_of(text.encode(), secrets.token_bytes(32))
    assert name in text


def test_az_11_only_the_exact_key_is_found() -> None:
    """One character off, a prefix, another case, a space, another key's secret: none of them."""
    ring, (text, other) = known(2)
    flipped = text[:-1] + ("0" if text[-1] != "0" else "1")
    prefix, _, secret = other.rpartition("_")
    wrong = [
        *("", "svk_", text[:16], text[:-1], flipped, text.upper(), text + " ", " " + text),
        *(f"{text}0", text.replace("svk_", "SVK_"), f"{text.rpartition('_')[0]}_{secret}"),
        *(f"{prefix}_{'0' * 64}", f"svk_{'0' * 12}_{secret}", text + "\n", text + "\x00"),
    ]

    assert [ring.find(each.encode()) for each in wrong] == [None] * len(wrong)
    found = ring.find(text.encode())
    assert found is not None
    assert found.key in text


def test_az_12_comparing_takes_as_long_for_a_right_prefix_as_for_a_wrong_one() -> None:
    """Over 100,000 look-ups the medians of known and unknown identifiers lie within a microsecond."""
    ring, (text,) = known()
    clock = SystemClock()
    head = text.rpartition("_")[0]
    guesses = {
        "known": [f"{head}_{secrets.token_hex(32)}".encode() for _ in range(500)],
        "unknown": [new_secret()[1].encode() for _ in range(500)],
    }
    times: dict[str, list[int]] = {kind: [] for kind in guesses}
    for _ in range(100):
        for kind, each in guesses.items():
            for guess in each:
                begun_ns = clock.monotonic_ns()
                ring.find(guess)
                times[kind].append(clock.monotonic_ns() - begun_ns)

    medians = {kind: statistics.median(each) for kind, each in times.items()}
    assert abs(medians["known"] - medians["unknown"]) < 1000


def test_pepper_is_private_and_lasts(tmp_path: Path) -> None:
    """Made once, mode 0600; a damaged one stops the start instead of making every key wrong."""
    pepper = read_pepper(tmp_path / "keys")

    assert read_pepper(tmp_path / "keys") == pepper
    assert (tmp_path / "keys" / "pepper").stat().st_mode & 0o777 == 0o600
    (tmp_path / "keys" / "pepper").write_bytes(b"short")
    with pytest.raises(StartFailed, match="32 bytes"):
        read_pepper(tmp_path / "keys")
