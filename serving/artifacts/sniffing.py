"""What a file is by its first bytes, where that shows that it is no ONNX model.

Nothing is ever unpacked or unpickled to find out. Archives are refused too: the files of an artifact are
uploaded one by one, so there is no path, link or size inside one that somebody would have to check.
"""

from typing import Final

LONGEST: Final = 265

_STARTS: Final = (
    (b"PK\x03\x04", "a zip archive (a PyTorch or Keras file, or an archive)"),
    (b"PK\x05\x06", "an empty zip archive"),
    (b"PK\x07\x08", "a zip archive in parts"),
    (b"\x93NUMPY", "a numpy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an xz file"),
    (b"(\xb5/\xfd", "a zstd file"),
    (b"7z\xbc\xaf", "a 7z archive"),
    (b"\x7fELF", "a shared library or program"),
    (b"MZ", "a Windows library or program"),
    (b"\xcf\xfa\xed\xfe", "a macOS library or program"),
    (b"x\x9c", "a zlib file (joblib writes them)"),
    (b"x\x01", "a zlib file (joblib writes them)"),
    (b"x\xda", "a zlib file (joblib writes them)"),
    (b"#!", "a script"),
    (b"{", "a JSON document"),
    (b"---", "a YAML document"),
)
_PICKLE: Final = 0x80
_LAST_PROTOCOL: Final = 5
_TAR: Final = slice(257, 262)


def foreign_kind(start: bytes) -> str:
    """What a file is that begins so; empty when it may be an ONNX model. start: `LONGEST` bytes."""
    for beginning, kind in _STARTS:
        if start.startswith(beginning):
            return kind
    if len(start) > 1 and start[0] == _PICKLE and start[1] <= _LAST_PROTOCOL:
        return "a pickle"
    if start[_TAR] == b"ustar":
        return "a tar archive"
    # Pickles of protocol 0 begin with an opcode and have no header; no field of an ONNX model does.
    if start[:1] in b"(]}ci" and start[:1]:
        return "a pickle, or no model at all"
    return ""
