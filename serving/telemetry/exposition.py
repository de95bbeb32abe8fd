"""One exposition out of those of several processes.

Each process renders its own metrics; whoever answers the metrics port asks them all and merges the
texts here, line by line, without summing anything: every sample gets a `process` label, and each
family keeps one HELP and one TYPE. Merging text keeps exemplars and costs no parse of values.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Final

END: Final = "# EOF"

_NAME = re.compile(r"[a-zA-Z_:][a-zA-Z0-9_:]*")


def merge_expositions(expositions: Mapping[str, str]) -> bytes:
    """The samples of all processes, labelled with their names.

    expositions: process name to its text, all in the Prometheus format or all in OpenMetrics; an
    empty text is a process that did not answer. Families come in order of first appearance.
    """
    headings: dict[str, list[str]] = {}
    samples: dict[str, list[str]] = {}
    ended = False
    for process, text in expositions.items():
        for family, lines in _families(text):
            if family not in headings:
                headings[family] = [line for line in lines if line.startswith("#")]
            labelled = (_labelled(line, process) for line in lines if not line.startswith("#"))
            samples.setdefault(family, []).extend(labelled)
        ended = ended or text.rstrip().endswith(END)
    lines = [line for family in headings for line in headings[family] + samples[family]]
    return "\n".join([*lines, END, ""] if ended else [*lines, ""]).encode()


def _families(text: str) -> Iterable[tuple[str, list[str]]]:
    """Family name and its lines; a family starts at its first `# HELP`, `# TYPE` or `# UNIT`."""
    name, lines = "", list[str]()
    for line in text.splitlines():
        if not line or line == END:
            continue
        heading = line.split(" ", 3)[2] if line.startswith("# ") else name
        if heading != name:
            if lines:
                yield name, lines
            name, lines = heading, []
        lines.append(line)
    if lines:
        yield name, lines


def _labelled(sample: str, process: str) -> str:
    match = _NAME.match(sample)
    end = match.end() if match else 0
    name, rest = sample[:end], sample[end:]
    if rest.startswith("{"):
        return f'{name}{{process="{process}",{rest[1:]}'
    return f'{name}{{process="{process}"}}{rest}'
