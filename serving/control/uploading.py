"""Uploads as the control port offers them: opened for one version, filled piece by piece, finished.

Finishing verifies what came and hands it to the inspection (`control.inspections`), which registers the
version; a look at the upload says what became of it. Of one version there is one upload at a time.
Whoever declares the same files again goes on where they were, so nobody needs to remember anything.
An upload is seen and touched by whoever opened it, and by nobody else.
"""

import unicodedata
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final

import msgspec
from sqlalchemy import Connection

from serving.artifact_settings import ArtifactSettings
from serving.artifacts.paths import check_paths
from serving.artifacts.uploads import MODEL_SUFFIX, Upload, UploadFile, Uploads
from serving.core.actors import Actor
from serving.core.calls import Answer, Call
from serving.core.clock import Clock
from serving.core.principals import Action, Role
from serving.errors import (
    AlreadyThere,
    ArtifactUnsupported,
    BodyTooLarge,
    Forbidden,
    NotFound,
    Overloaded,
    ParameterInvalid,
    PathUnsafe,
)
from serving.registry import rows
from serving.registry.definition import define, read_definition
from serving.registry.desk import Done, decoded
from serving.registry.entities import Lineage
from serving.registry.orders import check_digest, check_name
from serving.registry.service import Registry
from serving.storage.database import Database

PARITY_SUFFIXES: Final = (".npz", ".json")
MAX_PARITY_BYTES: Final = 64 * 1024 * 1024
_MOST_DIGITS: Final = 15
_UNDER_WAY: Final = frozenset({"receiving", "inspecting"})


class UploadOrder(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """An artifact to come, for a version that does not exist yet.

    files: all of them, one of which is the model and ends in `.onnx`. definition: as in `model.yaml`;
    empty: as the graph declares it. parity: a file with answers of the model it was made from.
    """

    model: str
    version: str
    files: tuple[UploadFile, ...]
    definition: dict[str, Any] = {}
    description: str = ""
    lineage: Lineage = Lineage()
    parity: UploadFile | None = None


class FileView(msgspec.Struct, frozen=True):
    """received: how many bytes are there; the next piece begins there."""

    path: str
    bytes: int
    received: int


class UploadView(msgspec.Struct, frozen=True, kw_only=True):
    """stage: receiving, inspecting, then validated, rejected (the version is, too) or failed."""

    id: str
    model: str
    version: str
    stage: str
    digest: str
    files: tuple[FileView, ...]
    code: str = ""
    reason: str = ""


class Sender(msgspec.Struct, frozen=True):
    """Who opened an upload, to act for them when the inspection is done."""

    subject: str
    tenant: str
    roles: tuple[Role, ...]
    owner: str
    source: str
    request_id: str

    @classmethod
    def of(cls, actor: Actor) -> "Sender":
        roles = tuple(sorted(actor.roles))
        return cls(actor.subject, actor.tenant, roles, actor.owner, actor.source, actor.request_id)

    def actor(self) -> Actor:
        """With the rights that were judged when the upload was opened."""
        return Actor(
            subject=self.subject,
            tenant=self.tenant,
            roles=frozenset(self.roles),
            owner=self.owner,
            source=self.source,
            request_id=self.request_id,
        )


TYPES: Final[Mapping[str, Any]] = {"UploadOrder": UploadOrder, "UploadView": UploadView}


class UploadDesk:
    """Fits `edge.admin.registry.Desk`. Blocks: it is used from the control plane's own thread."""

    def __init__(
        self,
        uploads: Uploads,
        registry: Registry,
        database: Database,
        *,
        settings: ArtifactSettings,
        clock: Clock,
    ) -> None:
        self._uploads = uploads
        self._registry = registry
        self._database = database
        self._settings = settings
        self._clock = clock
        self._orders: Mapping[str, Callable[[Call], Any]] = {
            "open_upload": self._open,
            "add_piece": self._add,
            "finish_upload": self._finish,
            "drop_upload": self._drop,
        }

    def ask(self, name: str, call: Call) -> Answer:
        """`upload`. Raises NotFound."""
        if name != "upload":
            raise NotFound(f"there is no question {name}. This is a bug")
        return Answer(msgspec.json.encode(self._view(self._found(call))))

    def carry_out(self, name: str, call: Call) -> Answer:
        """Raises ServingError of many kinds."""
        return Answer(msgspec.json.encode(self._orders[name](call)))

    # -- orders ----------------------------------------------------------------------------------

    def _open(self, call: Call) -> UploadView:
        order = decoded(call, UploadOrder)
        self._check(order)
        self._expire()
        self._database.read(lambda connection: self._check_version(connection, order, call.actor))
        under_way = [each for each in self._uploads.listed() if each.stage in _UNDER_WAY]
        for each in under_way:
            if (each.model, each.version) != (order.model, order.version):
                continue
            if (_owner(each), each.order) != (_identity(call.actor), _plain(order)):
                raise AlreadyThere(
                    f"an upload for {each.model}@{each.version} is under way already"
                )
            return self._view(each)
        if len(under_way) >= self._settings.max_uploads:
            raise Overloaded(
                f"{len(under_way)} uploads are under way; artifacts.max_uploads of them"
            )
        upload = self._uploads.open(
            model=order.model,
            version=order.version,
            files=order.files,
            parity=order.parity,
            order=_plain(order),
            sender=msgspec.to_builtins(Sender.of(call.actor)),
            touched_ns=self._clock.wall_ns(),
        )
        return self._view(upload)

    def _add(self, call: Call) -> UploadView:
        upload = self._found(call)
        offset = call.query.get("offset", "0")
        if not offset.isascii() or not offset.isdigit() or len(offset) > _MOST_DIGITS:
            raise ParameterInvalid("offset must be a whole number of bytes")
        number = upload.find(call.arguments["file"])
        self._uploads.add(upload, number, offset=int(offset), content=call.body)
        self._uploads.write(msgspec.structs.replace(upload, touched_ns=self._clock.wall_ns()))
        return self._view(upload)

    def _finish(self, call: Call) -> UploadView:
        upload = self._found(call)
        if upload.stage == "receiving":
            self._uploads.check(upload)
            upload = msgspec.structs.replace(
                upload, stage="inspecting", touched_ns=self._clock.wall_ns()
            )
            self._uploads.write(upload)
        return self._view(upload)

    def _drop(self, call: Call) -> Done:
        upload = self._found(call)
        if upload.stage == "inspecting":
            raise AlreadyThere("it is inspected now; look at what becomes of it")
        self._uploads.remove(upload)
        return Done()

    # -- inside ----------------------------------------------------------------------------------

    def _found(self, call: Call) -> Upload:
        upload = self._uploads.find(call.arguments["upload"])
        if _owner(upload) != _identity(call.actor):
            raise NotFound("there is no such upload, or it was given up")
        return upload

    def _expire(self) -> None:
        latest_ns = self._clock.wall_ns() - round(self._settings.upload_ttl_s * 1e9)
        for each in self._uploads.listed():
            if each.stage != "inspecting" and each.touched_ns < latest_ns:
                self._uploads.remove(each)

    def _check(self, order: UploadOrder) -> None:
        """Raises ParameterInvalid, PathUnsafe, ArtifactUnsupported, BodyTooLarge."""
        check_name(order.version, "version")
        parity = [] if order.parity is None else [order.parity]
        try:
            check_paths(file.path for file in (*order.files, *parity))
        except ValueError as error:
            raise PathUnsafe(str(error)) from error
        for file in (*order.files, *parity):
            check_digest(file.sha256)
            if file.bytes < 1:
                raise ParameterInvalid(f"{file.path!r} must have at least one byte")
        models = [file.path for file in order.files if file.path.endswith(MODEL_SUFFIX)]
        if len(models) != 1:
            raise ArtifactUnsupported(
                f"an artifact has exactly one {MODEL_SUFFIX} file and the weights that it refers to, "
                f"not {len(models)}; archives, pickles and code are not taken"
            )
        if parity and (
            not parity[0].path.endswith(PARITY_SUFFIXES) or parity[0].bytes > MAX_PARITY_BYTES
        ):
            raise ParameterInvalid(f"parity is a .npz or .json of at most {MAX_PARITY_BYTES} bytes")
        if sum(file.bytes for file in order.files) > self._settings.max_upload_bytes:
            raise BodyTooLarge(
                f"an artifact has at most artifacts.max_upload_bytes = "
                f"{self._settings.max_upload_bytes} bytes"
            )
        for text in _texts(msgspec.to_builtins(order)):
            if any(unicodedata.category(each).startswith("C") for each in text):
                raise ParameterInvalid(f"{text[:80]!r} holds a control character")
        if order.definition:
            _check_definition(order)

    def _check_version(self, connection: Connection, order: UploadOrder, actor: Actor) -> None:
        """Raises ModelNotFound, Forbidden, AlreadyThere."""
        model = self._registry.model(connection, order.model, actor=actor)
        if not actor.may(Action.REGISTER, model.name, model.tenant):
            raise Forbidden("this credential may not register a version of this model")
        if rows.find_version(connection, order.model, order.version) is not None:
            raise AlreadyThere(f"{order.model}@{order.version} is there already")

    def _view(self, upload: Upload) -> UploadView:
        done = upload.stage != "receiving"
        return UploadView(
            id=upload.id,
            model=upload.model,
            version=upload.version,
            stage=upload.stage,
            digest=upload.digest,
            files=tuple(
                FileView(
                    file.path,
                    file.bytes,
                    file.bytes if done else self._uploads.received(upload, number),
                )
                for number, file in enumerate(upload.all_files)
            ),
            code=upload.code,
            reason=upload.reason,
        )


def _check_definition(order: UploadOrder) -> None:
    """Raises ParameterInvalid."""
    definition = read_definition(order.definition)
    if definition.stages:
        raise ParameterInvalid(
            "an ensemble has no artifact to upload: register it with its stages alone"
        )
    define(definition, model=order.model, version=order.version, digest="")


def _plain(order: UploadOrder) -> dict[str, Any]:
    """As it is written down and read again."""
    plain: dict[str, Any] = msgspec.json.decode(msgspec.json.encode(order))
    return plain


def _owner(upload: Upload) -> tuple[str, str]:
    return upload.sender["tenant"], upload.sender["subject"]


def _identity(actor: Actor) -> tuple[str, str]:
    return actor.tenant, actor.subject


def _texts(value: Any) -> Iterator[str]:
    """Every text in plain values, names included, but for the description's line breaks."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for name, each in value.items():
            yield name
            yield from _texts(each.replace("\n", " ") if name == "description" else each)
    elif isinstance(value, list | tuple):
        for each in value:
            yield from _texts(each)
