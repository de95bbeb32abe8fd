"""The commands of the ready block: they work when pasted into a shell where `serving up` was run."""

import json
import math
import shlex
import shutil
import sys
from pathlib import Path
from typing import Any, Final

from serving.core.tensors import DTYPES
from serving.errors import SpecificationInvalid
from serving.registry.folder import DEFAULT_MODELS_DIR
from serving.registry.specification import FILE_NAME, read_specification
from serving.settings import Settings

FIRST_CHOICE: Final = "census-employment"
DEFAULT_DATA_DIR: Final = ".serving"
_INDENT: Final = " \\\n               "

_ZEROS: Final[dict[str, Any]] = {"b": False, "O": ""}
"""What stands for nothing in JSON, by kind of dtype; a number elsewhere."""


def how_to_call(*, working_directory: Path, executable: Path, search_path: str | None) -> str:
    """What to type for `serving`: the shortest that means this installation.

    executable: the running interpreter. search_path: as PATH; None for the environment's.
    """
    script = executable.parent / "serving"
    found = shutil.which("serving", path=search_path)
    if found is not None and Path(found) == script:
        return "serving"
    if script.exists():
        near = script.is_relative_to(working_directory)
        return str(script.relative_to(working_directory) if near else script)
    return f"{executable} -m serving"


def token_command(settings: Settings, *, call: str) -> str:
    """A command that prints a token for the running instance, or who else to ask for one."""
    if not settings.access.has_local_issuer:
        names = " or ".join(issuer.name for issuer in settings.access.issuers)
        return f"from {names or 'nobody: access.local_issuer is false'}"
    default = Path.cwd() / DEFAULT_DATA_DIR == settings.data_dir
    place = "" if default else f" --data-dir {shlex.quote(str(settings.data_dir))}"
    return f"{call} token --subject me --role caller{place}"


def try_command(settings: Settings, *, url: str, call: str) -> str:
    """A curl line with a real row of the first model, or of the demo model when it is served."""
    models = [deployment.model for deployment in settings.deployments]
    if not models:
        return f"{_curl(settings)} {url}/v2"
    model = FIRST_CHOICE if FIRST_CHOICE in models else models[0]
    body = json.dumps(_one_row(settings, model), separators=(",", ":"))
    issued = f"$({token_command(settings, call=call)})"
    token = issued if settings.access.has_local_issuer else "$TOKEN"
    parts = [
        f"{_curl(settings)} {url}/v2/models/{model}/infer",
        f'-H "Authorization: Bearer {token}"',
        "-H 'Content-Type: application/json'",
        f"-d {shlex.quote(body)}",
    ]
    return _INDENT.join(parts)


def _curl(settings: Settings) -> str:
    port = settings.http
    words = ["curl -s"]
    if port.certificate is not None:
        words.append(f"--cacert {shlex.quote(str(port.certificate))}")
    if port.requires_clients:
        words.append("--cert YOURS.pem --key YOURS.key")
    return " ".join(words)


def current_call() -> str:
    executable = Path(sys.executable)
    return how_to_call(working_directory=Path.cwd(), executable=executable, search_path=None)


def _one_row(settings: Settings, model: str) -> dict[str, Any]:
    folder = (settings.models_dir or DEFAULT_MODELS_DIR) / model
    sample = folder / "samples" / "request.json"
    try:
        inputs = json.loads(sample.read_text())["inputs"]
        return {"inputs": [_first_row(tensor) for tensor in inputs]}
    except (OSError, ValueError, KeyError):
        return {"inputs": _zeros(folder)}


def _first_row(tensor: dict[str, Any]) -> dict[str, Any]:
    shape = [1, *tensor["shape"][1:]]
    row = tensor["data"][: math.prod(shape)]
    data = [int(value) if value == int(value) else value for value in row]
    return {"name": tensor["name"], "shape": shape, "datatype": tensor["datatype"], "data": data}


def _zeros(folder: Path) -> list[dict[str, Any]]:
    try:
        specification = read_specification(folder / FILE_NAME)
    except SpecificationInvalid:
        return []
    rows = []
    for tensor in specification.inputs:
        shape = [abs(size) for size in tensor.shape]
        zero: Any = _ZEROS.get(DTYPES[tensor.datatype].kind, 0)
        data = [zero] * math.prod(shape)
        rows.append(
            {"name": tensor.name, "shape": shape, "datatype": tensor.datatype, "data": data}
        )
    return rows
