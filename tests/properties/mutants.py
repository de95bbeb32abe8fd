"""Damages a model in many ways and inspects each result in a process of its own, forked from this one.

    python mutants.py FOLDER SEED COUNT

Prints one line of JSON: how many were judged how. A result that no verdict came of is `unjudged`, with
its number and what happened; a death by a signal is one of the child alone, and counted by its name.
"""

import collections
import json
import os
import random
import signal
import sys
import traceback
from pathlib import Path

import onnx

from serving.inference.inspection import Inspection, limit
from serving.inference.reports import InspectionOrder
from tests.inference import graphs
from tests.specimens import MODEL, digests_of, lay_out

UNJUDGED = 3
ALARM_S = 2
OPERATORS = (
    "Loop",
    "If",
    "Scan",
    "Reshape",
    "Conv",
    "Tile",
    "Expand",
    "Gather",
    "Range",
    "Einsum",
    "Resize",
    "LSTM",
    "TopK",
    "Slice",
    "Relu",
    "Nope",
)


def mutated(content: bytes, source: random.Random) -> bytes:
    """One of: bits flipped, a part cut out, doubled, or overwritten; or cut off."""
    made = bytearray(content)
    for _ in range(source.randint(1, 4)):
        at = source.randrange(len(made))
        length = source.randint(1, 12)
        kind = source.choice(("flip", "cut", "double", "noise", "end"))
        if kind == "flip":
            made[at] ^= 1 << source.randrange(8)
        elif kind == "cut":
            del made[at : at + length]
        elif kind == "double":
            made[at:at] = made[at : at + length]
        elif kind == "noise":
            made[at : at + length] = source.randbytes(length)
        else:
            del made[max(1, at) :]
        if not made:
            return b""
    return bytes(made)


def rebuilt(content: bytes, source: random.Random) -> bytes:
    """A model that can be parsed, with operators, names, types and sizes that do not fit."""
    model = onnx.ModelProto.FromString(content)
    values = [*model.graph.input, *model.graph.output]
    for _ in range(source.randint(1, 3)):
        node = source.choice(model.graph.node)
        tensor = source.choice(values).type.tensor_type
        kind = source.choice(("operator", "names", "type", "size", "weights", "node", "opset"))
        if kind == "operator":
            node.op_type = source.choice(OPERATORS)
        elif kind == "names":
            node.input.append(source.choice(["", "input", "output", "x" * 500]))
        elif kind == "type":
            tensor.elem_type = source.randint(-1, 25)
        elif kind == "size":
            tensor.shape.dim.add(dim_value=source.choice([-5, 0, 1, 2**31, 2**62]))
        elif kind == "weights":
            for held in model.graph.initializer:
                held.dims[:] = [source.choice([-1, 0, 1, 2**40])] * source.randint(0, 3)
        elif kind == "node":
            model.graph.node.add().CopyFrom(node)
        else:
            model.opset_import[0].version = source.choice([-1, 0, 1, 6, 11, 2**40])
    return bytes(model.SerializeToString())


def judge(folder: Path, content: bytes) -> None:
    """In the child: a verdict, or an exception that nobody foresaw."""
    signal.setitimer(signal.ITIMER_REAL, ALARM_S)
    files = {MODEL: content}
    order = InspectionOrder(
        folder=str(lay_out(folder, files)),
        files=digests_of(files),
        model="m",
        version="1",
        memory_bytes=2**30,
        cpu_s=ALARM_S,
    )
    limit(order)
    os._exit(0 if Inspection(order, folder).verdict().passed else 1)


def main(folder: Path, seed: int, count: int) -> None:
    source = random.Random(seed)  # noqa: S311 - no secret
    seeds = [graphs.doubling(), graphs.endless(), graphs.lookup(), graphs.shares()]
    judged: collections.Counter[str] = collections.Counter()
    for number in range(count):
        mutate = source.choice((mutated, rebuilt))
        content = mutate(source.choice(seeds), source)
        child = os.fork()
        if child == 0:
            try:
                judge(folder / str(number), content)
            except BaseException:  # noqa: BLE001 - the finding
                traceback.print_exc()
                os._exit(UNJUDGED)
        _, status = os.waitpid(child, 0)
        code = os.waitstatus_to_exitcode(status)
        names = {0: "passed", 1: "rejected", UNJUDGED: "unjudged"}
        judged[names.get(code) or signal.Signals(-code).name] += 1
    sys.stdout.write(f"{json.dumps(judged)}\n")


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
