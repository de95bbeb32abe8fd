"""AR-01, AR-05, AR-06, AR-24: artifacts on their way in, piece by piece."""

import hashlib
import io
import tarfile
import zipfile
from pathlib import Path

import pytest

from serving.artifacts.sniffing import foreign_kind
from serving.artifacts.uploads import MAX_PIECE_BYTES, Upload, UploadFile, Uploads
from serving.errors import (
    ArtifactUnsupported,
    BodyTooLarge,
    DigestChanged,
    NotFound,
    StateConflict,
)
from serving.trust.keystores import LocalKeyStore
from tests.inference import graphs

CONTENT = graphs.doubling()


def uploads_in(folder: Path) -> Uploads:
    return Uploads(folder / "uploads", LocalKeyStore(folder / "keys"))


def begin(uploads: Uploads, **files: bytes) -> Upload:
    """An upload of files by name, without their endings."""
    declared = tuple(
        UploadFile(f"{name}.onnx", hashlib.sha256(content).hexdigest(), len(content))
        for name, content in files.items()
    )
    return uploads.open(
        model="m", version="1", files=declared, parity=None, order={}, sender={}, touched_ns=1
    )


def test_pieces_become_the_file_and_nothing_of_it_lies_in_the_open(tmp_path: Path) -> None:
    """What was sent in pieces is given out as it was, and no piece can be read on disk."""
    uploads = uploads_in(tmp_path)
    upload = begin(uploads, model=CONTENT)
    for offset in range(0, len(CONTENT), 50):
        uploads.add(upload, 0, offset=offset, content=CONTENT[offset : offset + 50])
    uploads.check(upload)
    assert b"".join(uploads.content(upload, 0)) == CONTENT
    on_disk = [file.read_bytes() for file in tmp_path.rglob("*") if file.is_file()]
    assert not any(CONTENT[20:60] in each for each in on_disk)
    assert {file.stat().st_mode & 0o777 for file in tmp_path.glob("uploads/*/*")} == {0o600}


def test_ar_24_an_interrupted_upload_goes_on_where_it_was(tmp_path: Path) -> None:
    """After a restart of the product the offset is known, and the rest completes the file."""
    upload = begin(uploads_in(tmp_path), model=CONTENT)
    uploads_in(tmp_path).add(upload, 0, offset=0, content=CONTENT[:100])
    later = uploads_in(tmp_path)
    found = later.find(upload.id)
    assert later.received(found, 0) == 100
    later.add(found, 0, offset=100, content=CONTENT[100:])
    later.check(found)


def test_ar_24_a_piece_sent_again_changes_nothing_and_other_bytes_are_refused(
    tmp_path: Path,
) -> None:
    """The same piece is taken as known; another one in its place is a conflict."""
    uploads = uploads_in(tmp_path)
    upload = begin(uploads, model=CONTENT)
    assert uploads.add(upload, 0, offset=0, content=CONTENT[:60]) == 60
    assert uploads.add(upload, 0, offset=0, content=CONTENT[:60]) == 60
    with pytest.raises(StateConflict, match="other bytes"):
        uploads.add(upload, 0, offset=0, content=b"x" * 60)
    with pytest.raises(StateConflict, match="go on from offset 60"):
        uploads.add(upload, 0, offset=30, content=CONTENT[30:80])
    with pytest.raises(StateConflict, match="go on from offset 60"):
        uploads.add(upload, 0, offset=70, content=CONTENT[70:])


def test_ar_24_an_upload_resumed_with_other_bytes_is_never_whole(tmp_path: Path) -> None:
    """The digest that was declared decides; the file can then be sent anew, from its begin."""
    uploads = uploads_in(tmp_path)
    upload = begin(uploads, model=CONTENT)
    uploads.add(upload, 0, offset=0, content=CONTENT[:100])
    uploads.add(upload, 0, offset=100, content=bytes(len(CONTENT) - 100))
    with pytest.raises(DigestChanged, match="send it again"):
        uploads.check(upload)
    assert uploads.received(upload, 0) == 0
    uploads.add(upload, 0, offset=0, content=CONTENT)
    uploads.check(upload)


def test_what_is_missing_or_too_much_is_refused(tmp_path: Path) -> None:
    """Nothing is finished before every byte is there, and no byte beyond the declared is taken."""
    uploads = uploads_in(tmp_path)
    upload = begin(uploads, model=CONTENT)
    with pytest.raises(StateConflict, match=f"0 of {len(CONTENT)} bytes"):
        uploads.check(upload)
    with pytest.raises(BodyTooLarge, match="declared"):
        uploads.add(upload, 0, offset=0, content=CONTENT + b"x")
    large = begin(uploads, model=bytes(MAX_PIECE_BYTES + 2))
    with pytest.raises(BodyTooLarge, match="a piece"):
        uploads.add(large, 0, offset=0, content=bytes(MAX_PIECE_BYTES + 1))


def test_what_became_of_an_upload_stays_and_its_bytes_go(tmp_path: Path) -> None:
    """A settled upload tells its verdict, takes nothing more, and can be removed."""
    uploads = uploads_in(tmp_path)
    upload = begin(uploads, model=CONTENT)
    uploads.add(upload, 0, offset=0, content=CONTENT)
    uploads.settle(upload, "rejected", code="invalid_model", reason="no")
    found = uploads.find(upload.id)
    assert (found.stage, found.code) == ("rejected", "invalid_model")
    assert [file.name for file in tmp_path.glob("uploads/*/*")] == ["upload.json"]
    with pytest.raises(StateConflict, match="rejected"):
        uploads.add(found, 0, offset=0, content=CONTENT)
    uploads.remove(found)
    with pytest.raises(NotFound):
        uploads.find(upload.id)


@pytest.mark.parametrize("upload_id", ["../keys", "", "x" * 32, "0" * 31, "/etc"])
def test_an_identifier_is_no_path(upload_id: str, tmp_path: Path) -> None:
    """Whatever stands in the place of an identifier, only uploads are found by it."""
    with pytest.raises(NotFound):
        uploads_in(tmp_path).find(upload_id)


def _tar(kind: bytes, *, mode: int = 0o644, size: int = 0) -> bytes:
    content = io.BytesIO()
    with tarfile.open(fileobj=content, mode="w") as archive:
        entry = tarfile.TarInfo("../../evil")
        entry.type, entry.linkname, entry.mode, entry.size = kind, "/etc/passwd", mode, size
        archive.addfile(entry)
    return content.getvalue()


def _zip_bomb() -> bytes:
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w", zipfile.ZIP_DEFLATED) as archive:
        for _ in range(3):
            archive.writestr(f"{_}/../../evil.onnx", bytes(1_000_000))
    return content.getvalue()


ARCHIVES = {
    "symlink": _tar(tarfile.SYMTYPE),
    "hard link": _tar(tarfile.LNKTYPE),
    "device": _tar(tarfile.CHRTYPE),
    "fifo": _tar(tarfile.FIFOTYPE),
    "setuid": _tar(tarfile.REGTYPE, mode=0o4755),
    "zip bomb": _zip_bomb(),
    "nothing in a zip": b"PK\x05\x06" + bytes(18),
    "gzip": b"\x1f\x8b" + bytes(30),
}


@pytest.mark.parametrize("kind", ARCHIVES)
def test_ar_05_ar_06_archives_are_refused_and_never_unpacked(kind: str, tmp_path: Path) -> None:
    """Whatever an archive holds, links, devices or a bomb, nothing of it is looked into."""
    uploads = uploads_in(tmp_path)
    content = ARCHIVES[kind]
    upload = begin(uploads, model=content)
    uploads.add(upload, 0, offset=0, content=content)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ArtifactUnsupported, match=r"archive|gzip"):
        uploads.check(upload)
    assert sorted(tmp_path.rglob("*")) == before


def test_models_are_told_from_everything_else() -> None:
    """The bytes that an ONNX model begins with are nothing else's."""
    assert foreign_kind(CONTENT) == ""
    assert foreign_kind(b"\x08") == ""
    assert foreign_kind(b"\x80\x04\x95") == "a pickle"
    assert foreign_kind(b"--- !!python/object/apply:os.system") == "a YAML document"
