"""`serving log verify` and `serving log head`: what the files of a log prove, to anybody with the key."""

import contextlib
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Annotated, Final

import msgspec
import typer

from serving.cli.groups import AtDirectory, grouped
from serving.cli.output import complain, table
from serving.errors import NotFound, SignatureInvalid
from serving.predictionlog.heads import ExportedHeads, Head, open_head, read_envelope
from serving.predictionlog.reading.findings import Finding, VerificationReport
from serving.predictionlog.reading.reader import log_directories
from serving.predictionlog.reading.rendering import time_text
from serving.predictionlog.reading.segmentcheck import Progress
from serving.predictionlog.reading.verification import verify
from serving.predictionlog.source import segment_paths
from serving.trust.installation import read_trusted
from serving.trust.signatures import PublicKey, TrustedKey, TrustedKeys

DAMAGED: Final = 1
_MAX_FINDINGS: Final = 20

LogFolder = Annotated[
    Path | None,
    typer.Option("--log", help="A copied log folder, instead of the data directory's."),
]
KeyFile = Annotated[
    Path | None,
    typer.Option(
        "--key",
        help="A file with the public key to believe (base64 or PEM), instead of the trusted keys "
        "of the data directory.",
    ),
]


@grouped
def verify_log(
    *,
    key: KeyFile = None,
    anchor: Annotated[
        Path | None,
        typer.Option(
            help="Heads that `serving log head --export` wrote: nothing since is missing."
        ),
    ] = None,
    log: LogFolder = None,
    at: AtDirectory,
) -> None:
    """Read every byte of the log and say what is not as it was signed; exit status 1 if anything is.

    Offline, from the files and the public key alone; also while the product runs. Finds records
    that were edited, removed, added, moved or cut off, checksums made right or not, and names file,
    offset and sequence. Segments that retention took are named as such where its signed statement
    says so; others that are gone are damage. A torn tail (a write that a crash cut off) is not damage: nobody was
    answered from it. Who can write the data directory can replace the newest head by an older one;
    an anchor that was kept elsewhere finds that too.

    \b
    Examples:
      serving log verify
      serving log verify --json
      serving log verify --anchor heads-monday.json
      serving log verify --log /evidence/log --key installation.pub
    """
    root, trusted = _root(log, at), _trusted(key, at)
    anchors = {} if anchor is None else _anchors(anchor, trusted)
    with _progress(root, quiet=at.json) as progress:
        report = verify(root, trusted=trusted, anchors=anchors, progress=progress)
    facts = {"sound": not report.damage, **msgspec.to_builtins(report)}
    at.tell(facts, lambda: _text(report))
    lost = sum(segment.lost_commits for segment in report.segments)
    if lost and not at.json:
        complain(f"serving: {lost} commits were recorded and gone at a restart")
    if report.damage:
        raise typer.Exit(DAMAGED)


@grouped
def head(
    *,
    export: Annotated[
        Path | None, typer.Option(help="Write the signed heads to this file; keep it elsewhere.")
    ] = None,
    key: KeyFile = None,
    log: LogFolder = None,
    at: AtDirectory,
) -> None:
    """Say how far each worker's log goes, as its writer signed it; at most a second old.

    A head kept where nobody of this machine can change it proves later that nothing recorded by
    now was removed: `serving log verify --anchor`.

    \b
    Examples:
      serving log head
      serving log head --export heads-monday.json
    """
    root, trusted = _root(log, at), _trusted(key, at)
    envelopes = {
        directory.name: envelope
        for directory in log_directories(root)
        if (envelope := read_envelope(directory)) is not None
    }
    heads = {name: open_head(envelope, trusted) for name, envelope in envelopes.items()}
    if export is not None:
        export.write_bytes(ExportedHeads(envelopes).encode())
    at.tell(heads, lambda: _heads(heads))


def _heads(heads: Mapping[str, Head]) -> str:
    rows = [
        (name, str(each.segment), str(each.commits), str(each.next_sequence - 1), each.root[:16])
        for name, each in sorted(heads.items())
    ]
    return table(("DIRECTORY", "SEGMENT", "COMMITS", "LAST SEQUENCE", "ROOT"), rows)


def _root(log: Path | None, at: AtDirectory) -> Path:
    """Where the logs lie. Raises NotFound."""
    root = log or at.settings().data_dir / "log"
    if not root.is_dir():
        raise NotFound(f"{root} does not exist; has the product run with this data directory?")
    return root


def _trusted(key: Path | None, at: AtDirectory) -> TrustedKeys:
    if key is None:
        return read_trusted(at.directory().keys)
    try:
        public = PublicKey.from_text(key.read_text())
    except (OSError, UnicodeDecodeError) as error:
        raise SignatureInvalid(f"cannot read the public key in {key}") from error
    return TrustedKeys([TrustedKey(public.key_id, public.text, key.name, ("log",))])


def _anchors(path: Path, trusted: TrustedKeys) -> Mapping[str, Head]:
    try:
        exported = ExportedHeads.decode(path.read_bytes())
    except OSError as error:
        raise NotFound(f"cannot read the anchor {path}: {error.strerror}") from error
    return {name: open_head(envelope, trusted) for name, envelope in exported.heads.items()}


@contextlib.contextmanager
def _progress(root: Path, *, quiet: bool) -> Iterator[Progress | None]:
    """A bar on a terminal, nothing elsewhere."""
    if quiet or not sys.stderr.isatty():
        yield None
        return
    size_bytes = sum(
        path.stat().st_size
        for directory in log_directories(root)
        for _, path in segment_paths(directory)
    )
    with typer.progressbar(length=size_bytes, label="verifying", file=sys.stderr) as bar:
        yield bar.update


def _text(report: VerificationReport) -> str:
    heads = ("SEGMENT", "STATE", "SIGNED BY", "DURABILITY", "RECORDS", "TORN BYTES", "DAMAGE")
    rows = [
        (
            segment.file,
            segment.state,
            segment.key_id or "-",
            segment.durability,
            str(segment.records),
            str(segment.torn_bytes or segment.cut_bytes),
            str(len(segment.damage)),
        )
        for segment in report.segments
    ]
    lines = [table(heads, rows)]
    lines += [
        f"{removal.directory}: {removal.segments} segments, up to {removal.through:08d}, were "
        f"removed by {removal.reason}, the last at {time_text(removal.time_ns)}, as signed"
        for removal in report.removed
    ]
    lines += [_damage(each) for each in report.damage[:_MAX_FINDINGS]]
    if len(report.damage) > _MAX_FINDINGS:
        lines.append(f"and {len(report.damage) - _MAX_FINDINGS} more; --json names them all")
    sound = "damaged" if report.damage else "sound"
    lines.append(f"{report.records} records in {len(report.segments)} segments: {sound}")
    return "\n".join(lines)


def _damage(finding: Finding) -> str:
    named = "" if finding.sequence is None else f" (sequence {finding.sequence})"
    return (
        f"damage: {finding.file} bytes {finding.start} to {finding.end}: {finding.reason}{named}; "
        f"last safe sequence {finding.last_safe}, first safe after it {finding.first_safe}"
    )
