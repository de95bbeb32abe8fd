"""What lies on disk while models are served: no model, and no key outside of its own file."""

import base64
import re
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from serving.app.descendants import descendants
from serving.app.directory import DataDirectory
from tests.catalogue import multiplying
from tests.instances import Instance
from tests.places import Place, a_row

IN_THE_MODEL = b"once_more"
"""The name of a value in every graph of `tests.catalogue`, and in nothing else."""

KEY_FILES = {"artifact-keys.json", "installation.ed25519"}


def files_of(place: Place) -> Iterator[tuple[Path, bytes]]:
    """Every file below the data directory and the folder of its sockets, and what it holds now."""
    directory = DataDirectory.at(place.data_dir)
    for folder in {directory.root, directory.sockets}:
        for path in folder.rglob("*"):
            if path.is_file() and not path.is_symlink():
                yield path, path.read_bytes()


def secrets_of(place: Place) -> list[bytes]:
    """The wrapping key and the signing key, in each form that a text could hold them in."""
    keys = DataDirectory.at(place.data_dir).keys
    wrapping = msgspec.json.decode((keys / "artifact-keys.json").read_bytes())
    texts = [each["key"] for each in wrapping["generations"]]
    pem = (keys / "installation.ed25519").read_text()
    texts += [line for line in pem.splitlines() if not line.startswith("-----")]
    return [
        form
        for text in texts
        for form in (text.encode(), base64.b64decode(text), base64.b64decode(text).hex().encode())
    ]


async def served(place: Place) -> None:
    """One answered row: by now everything that writes has written."""
    async with place.client() as client:
        answer = await client.post("/v2/models/doubler/infer", json=a_row(1.0))
    assert answer.status_code == 200


async def test_p25_models_are_unreadable_on_disk(place: Place) -> None:
    """No file of the installation holds a piece of a model that it serves (canary)."""
    assert IN_THE_MODEL in multiplying(2.0)
    await served(place)

    found = dict(files_of(place))
    sealed = [path for path in found if path.suffix == ".sealed"]
    assert len(sealed) >= 2
    assert [path for path, content in found.items() if IN_THE_MODEL in content] == []


async def test_cr_08_keys_are_in_their_own_files_only(place: Place) -> None:
    """Not in a log, a snapshot, the settings, a record or any other file."""
    await served(place)
    secrets = secrets_of(place)

    holding = {path.name for path, content in files_of(place) if any(s in content for s in secrets)}
    assert holding == KEY_FILES


@pytest.mark.ray
def test_cr_08_no_process_shows_a_key(ray_instance: Instance) -> None:
    """Neither its arguments nor its environment holds one, and none of them may leave a core file.

    Replicas are among them, and everything that Ray starts.
    """
    place = Place(ray_instance.url, ray_instance.data_dir)
    secrets = secrets_of(place)
    pids = [ray_instance.process.pid, *descendants(ray_instance.process.pid)]
    shown = [_read(pid, name) for pid in pids for name in ("cmdline", "environ")]
    limits = [_read(pid, "limits").decode() for pid in pids]

    assert any(b"ray::ServeReplica" in text for text in shown)
    assert [text for text in shown if any(secret in text for secret in secrets)] == []
    core = [re.search(r"Max core file size +(\S+) +(\S+)", text) for text in limits if text]
    assert {found.groups() for found in core if found} == {("0", "0")}


def _read(pid: int, name: str) -> bytes:
    """A file of a process; empty when it has ended."""
    try:
        return Path(f"/proc/{pid}/{name}").read_bytes()
    except OSError:
        return b""
