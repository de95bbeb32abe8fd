"""The bytes of one segment file, seen through a window of bounded size."""

from pathlib import Path
from types import TracebackType
from typing import Final, Self

from google_crc32c import extend

from serving.predictionlog.files import SYSTEM_FILES, FilesToRead
from serving.predictionlog.format import HEADER_BYTES, SUFFIX, SegmentHeader, decode_header

WINDOW_BYTES: Final = 512 * 1024
"""From 1 MiB on every read gets new pages from the kernel: 430 us instead of 16 us for each MiB."""


def segment_paths(directory: Path, files: FilesToRead = SYSTEM_FILES) -> list[tuple[int, Path]]:
    """The numbered segment files of one writer's directory, in order."""
    return sorted(
        (int(stem), directory / name)
        for name in files.names(directory)
        if name.endswith(SUFFIX) and (stem := name.removesuffix(SUFFIX)).isdecimal()
    )


class Source:
    """A segment file opened for reading, seen through a window."""

    def __init__(self, path: Path, files: FilesToRead = SYSTEM_FILES) -> None:
        self.path = path
        self._files = files
        self.size = 0
        self._descriptor = -1
        self._base = 0
        self._window = b""

    def __enter__(self) -> Self:
        self._descriptor = self._files.open_to_read(self.path)
        self.refresh()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._files.close(self._descriptor)

    def refresh(self) -> None:
        """Forgets what was read: a writer may have gone on."""
        self.size = self._files.size(self._descriptor)
        self._window = b""

    def window(self, offset: int, length: int) -> tuple[bytes, int]:
        """Bytes that hold `offset` to `offset + length` or the end, and where `offset` is in them."""
        at = offset - self._base
        if at < 0 or at + length > len(self._window):
            self._base = offset
            self._window = self._files.read(self._descriptor, max(length, WINDOW_BYTES), offset)
            at = 0
        return self._window, at

    def look_behind(self, end: int) -> None:
        """Places the window so that what stands before `end` is in it, for reading backwards."""
        if not self._base < end <= self._base + len(self._window):
            start = max(end - WINDOW_BYTES, 0)
            self.window(start, end - start)

    def read(self, offset: int, length: int) -> bytes:
        """Fewer bytes at the end of the file only."""
        window, at = self.window(offset, length)
        return window[at : at + length]

    def checksum(self, start: int, end: int) -> int:
        """Of a range of any size, in pieces."""
        total = 0
        while start < end:
            piece = self.read(start, min(WINDOW_BYTES, end - start))
            if not piece:
                break
            total = extend(total, piece)
            start += len(piece)
        return total

    def blank(self, start: int, end: int) -> bool:
        """Whether only zeros, or nothing, stand there."""
        while start < end:
            piece = self.read(start, min(WINDOW_BYTES, end - start))
            if piece != bytes(len(piece)):
                return False
            if not piece:
                return True
            start += len(piece)
        return True

    def header(self) -> tuple[SegmentHeader | None, bool]:
        """The header, None when both copies are damaged; and whether both are intact."""
        # Not through the window: whoever lists segments reads nothing else of most of them.
        content = self._files.read(self._descriptor, 2 * HEADER_BYTES, 0)
        copies = [content[:HEADER_BYTES], content[HEADER_BYTES:]]
        headers = [decode_header(copy) for copy in copies]
        return headers[0] or headers[1], headers[0] is not None and headers[0] == headers[1]
