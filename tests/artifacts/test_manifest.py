"""Which files an artifact may have, and that they are exactly those that were signed."""

from typing import Any

import pytest

from serving.artifacts.bundles import bundle_digest, sha256
from serving.artifacts.manifest import Manifest, ManifestFile, check_files
from serving.errors import ReleaseRefused
from tests.plans import a_version
from tests.releases import manifest_of

A, B, C = (sha256(each) for each in (b"a", b"b", b"c"))
FILES = {"model.onnx": A, "weights/one.bin": B}
SIGNED = manifest_of(a_version(), FILES)

CHANGED = {
    "added": {**FILES, "weights/two.bin": C},
    "added a known one": {**FILES, "copy.onnx": A},
    "removed": {"model.onnx": A},
    "renamed": {"model.onnx": A, "weights/uno.bin": B},
    "swapped": {"model.onnx": B, "weights/one.bin": A},
    "changed": {"model.onnx": A, "weights/one.bin": C},
}


@pytest.mark.parametrize("files", CHANGED.values(), ids=list(CHANGED))
def test_ar_19_other_files_than_were_signed_are_refused(files: dict[str, str]) -> None:
    """One added, removed, renamed, two swapped; the digest of the whole is another, too."""
    with pytest.raises(ReleaseRefused, match="signed"):
        check_files(SIGNED, files)
    assert bundle_digest(files) != SIGNED.digest


def test_files_as_they_were_signed_pass() -> None:
    """In any order; an artifact of one file has that file's digest."""
    check_files(SIGNED, dict(reversed(FILES.items())))

    assert bundle_digest({"any": A}) == A
    assert SIGNED.digest == bundle_digest(FILES)


PATHS = {
    "parent": ["../x"],
    "parent inside": ["a/../../x"],
    "absolute": ["/etc/passwd"],
    "dot": ["."],
    "not plain": ["a//b"],
    "not plain dot": ["./a"],
    "empty": [""],
    "backslash": ["a\\b"],
    "drive": ["c:x"],
    "NUL": ["a\0b"],
    "newline": ["a\nb"],
    "right to left": ["a\u202eb"],
    "long": ["x" * 201],
    "twice": ["a", "a"],
    "case": ["a/Model", "a/model"],
    "unicode form": ["\u00e9", "e\u0301"],
    "none": [],
    "many": [str(number) for number in range(1001)],
}


@pytest.mark.parametrize("paths", PATHS.values(), ids=list(PATHS))
def test_ar_20_names_that_no_artifact_may_have_are_refused(paths: list[str]) -> None:
    """When a manifest is made, and when one is read."""
    unchecked = Manifest(
        model="m",
        version="1",
        author="ann",
        requirement=SIGNED.requirement,
        entry=paths[0] if paths else "",
        files=tuple(ManifestFile(path, A) for path in paths),
        created_ns=1,
    )

    with pytest.raises(ReleaseRefused, match="the manifest is refused"):
        unchecked.check()


@pytest.mark.parametrize("changes", [{"entry": "other"}, {"digests": {"model.onnx": "AB" * 32}}])
def test_ar_20_entry_and_digests_must_be_what_they_say(changes: dict[str, Any]) -> None:
    """An entry among the files; digests in the one form that they have."""
    with pytest.raises(ReleaseRefused, match="names no entry, or a digest"):
        manifest_of(a_version(), **changes)
