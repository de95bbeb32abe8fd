"""Options that come together, written once: the fields of a dataclass.

    @app.command("show")
    @grouped
    def show(model: Model, *, at: AtRegistry) -> None: ...

A verb takes the group as one parameter, by keyword; whoever types the command sees its fields as
options, in its place.
"""

import inspect
from collections.abc import Callable
from dataclasses import MISSING, dataclass, fields, is_dataclass
from functools import wraps
from typing import Annotated, Any, get_type_hints

import typer

from serving.app.directory import DataDirectory
from serving.cli.options import Config, DataDir, Json, effective
from serving.cli.orders import ControlClient
from serving.cli.output import say, say_json
from serving.cli.registry import Url, registry
from serving.client import RegistryClient
from serving.core.principals import Role
from serving.settings import Settings

Verb = Callable[..., None]
Token = Annotated[
    str, typer.Option(envvar="SERVING_TOKEN", help="Your own token or API key.", show_default=False)
]


@dataclass(frozen=True, slots=True)
class Answers:
    """How a verb says what it found."""

    json: Json = False

    def tell(self, facts: object, text: Callable[[], str]) -> None:
        """The facts for programs, or the text for people."""
        if self.json:
            say_json(facts)
        else:
            say(text())


@dataclass(frozen=True, slots=True)
class AtDirectory(Answers):
    """A data directory and the settings of its instance, which need not run."""

    config: Config = None
    data_dir: DataDir = None

    def settings(self, **flags: Any) -> Settings:
        """After file, environment and flags, as `effective` takes them. Raises SettingInvalid."""
        return effective(self.config, self.data_dir, **flags)

    def directory(self) -> DataDirectory:
        """Raises SettingInvalid."""
        return DataDirectory.at(self.settings().data_dir)


@dataclass(frozen=True, slots=True)
class AtControl(AtDirectory):
    """The control port of the instance on a data directory."""

    def client(self, role: Role = Role.ADMIN) -> ControlClient:
        """Asks in this role. Raises NotReady."""
        return ControlClient(self.directory(), role=role)


@dataclass(frozen=True, slots=True)
class AsSomebody(AtControl):
    """The same, asked by whoever's token is given, else by this machine's user."""

    token: Token = ""

    def client(self, role: Role = Role.ADMIN) -> ControlClient:
        return ControlClient(self.directory(), role=role, token=self.token)


@dataclass(frozen=True, slots=True)
class AtRegistry(Answers):
    """The registry of the instance on a data directory, or of another machine."""

    url: Url = None
    config: Config = None
    data_dir: DataDir = None

    def client(self, role: Role) -> RegistryClient:
        """Asks in this role. Raises NotReady, ParameterInvalid."""
        return registry(self.config, self.data_dir, self.url, role=role)


def grouped(verb: Verb) -> Verb:
    """The verb with the options of its groups in their place, as typer reads them."""
    signature = inspect.signature(verb)
    hints = get_type_hints(verb, include_extras=True)
    groups = {name: hints[name] for name in signature.parameters if is_dataclass(hints[name])}

    @wraps(verb)
    def spread(**given: Any) -> None:
        for name, group in groups.items():
            given[name] = group(**{each.name: given.pop(each.name) for each in fields(group)})
        verb(**given)

    shown: list[inspect.Parameter] = []
    for name, each in signature.parameters.items():
        own = [each.replace(annotation=hints[name])]
        shown += _options(groups[name]) if name in groups else own
    spread.__signature__ = signature.replace(parameters=shown)  # type: ignore[attr-defined]
    spread.__annotations__ = {each.name: each.annotation for each in shown}
    return spread


def _options(group: Any) -> list[inspect.Parameter]:
    hints = get_type_hints(group, include_extras=True)
    kind = inspect.Parameter.KEYWORD_ONLY
    return [
        inspect.Parameter(
            each.name,
            kind,
            default=inspect.Parameter.empty if each.default is MISSING else each.default,
            annotation=hints[each.name],
        )
        for each in fields(group)
    ]
