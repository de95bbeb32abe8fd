"""Ensembles: versions made of stages, checked before anybody calls them.

An ensemble has tensors of its own: its inputs, and what its stages give under the names that the
specification says. `resolve` checks that every tensor has one origin, that each stage gets all it
takes in a datatype and shape it takes, and that no stage waits for itself. What it returns names the
digest of every stage; the artifact of the ensemble is the canonical JSON of that, so that whoever
agrees to its digest agrees to all of it, and no stage can be exchanged underneath.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from serving.core.models import Digest, ModelName, ModelVersion, Stage, Treatment, VersionName
from serving.core.tensors import TensorSpecification
from serving.errors import ParameterInvalid
from serving.registry.definition import Definition, Staged
from serving.trust.canonical import canonical

ENTRY: Final = "stages.json"
"""What the artifact of an ensemble is called in a manifest."""

Find = Callable[[str, str], ModelVersion | None]
"""From model and version to what is known of it."""

_HIDING: Final[Mapping[Treatment, int]] = {"keep": 0, "encrypt": 1, "hash": 2, "drop": 3}
_CALLER: Final = "the caller"


@dataclass(frozen=True, slots=True)
class _Tensor:
    """A tensor of an ensemble. origin: who gives it, in words."""

    origin: str
    specification: TensorSpecification


def resolve(definition: Definition, find: Find, *, model: str, version: str) -> tuple[Stage, ...]:
    """The stages, each with its digest. Raises ParameterInvalid, which says what to change."""
    if definition.batching.padding is not None:
        raise ParameterInvalid("batching.padding: the stages of an ensemble pad for themselves")
    if len({stage.name for stage in definition.stages}) < len(definition.stages):
        raise ParameterInvalid("stages must have distinct names")
    versions = {
        stage.name: _found(stage, find, owner=f"{model}@{version}") for stage in definition.stages
    }
    for stage in definition.stages:
        _check_names(stage, versions[stage.name])
    tensors = _tensors(definition, versions)
    for stage in definition.stages:
        _check_inputs(stage, versions[stage.name], tensors)
    _check_order(definition.stages)
    _check_ends(definition, tensors)
    _check_recording(definition, versions)
    return tuple(_stage(stage, digest=versions[stage.name].digest) for stage in definition.stages)


def declared(definition: Definition) -> tuple[Stage, ...]:
    """The stages as they are written, with digests that are not known."""
    return tuple(_stage(stage, digest=Digest("")) for stage in definition.stages)


def artifact_of(stages: Sequence[Stage]) -> bytes:
    """The artifact of an ensemble: the same bytes for the same stages."""
    return canonical(
        {
            "stages": [
                {
                    "name": stage.name,
                    "model": stage.model,
                    "version": stage.version,
                    "digest": stage.digest,
                    "inputs": dict(stage.inputs),
                    "outputs": dict(stage.outputs),
                }
                for stage in stages
            ]
        }
    )


def digest_of(stages: Sequence[Stage]) -> Digest:
    return Digest(hashlib.sha256(artifact_of(stages)).hexdigest())


def trouble_with(version: ModelVersion, find: Find) -> str:
    """Why the stages of an ensemble are not what was agreed to; empty when they are."""
    if digest_of(version.stages) != version.digest:
        return "its stages are not those of its digest"
    for stage in version.stages:
        found = find(stage.model, stage.version)
        if found is None:
            return f"stage {stage.name}: there is no version {stage.key}"
        if found.digest != stage.digest:
            return f"stage {stage.name}: {stage.key} has another digest than the ensemble names"
    return ""


def _stage(stage: Staged, *, digest: Digest) -> Stage:
    return Stage(
        name=stage.name,
        model=ModelName(stage.model),
        version=VersionName(stage.version),
        digest=digest,
        inputs=tuple(sorted(stage.inputs.items())),
        outputs=tuple(sorted(stage.outputs.items())),
    )


# -- what is checked -------------------------------------------------------------------------------


def _found(stage: Staged, find: Find, *, owner: str) -> ModelVersion:
    named = f"{stage.model}@{stage.version}"
    if named == owner:
        raise ParameterInvalid(f"stages.{stage.name}: an ensemble cannot be a stage of itself")
    found = find(stage.model, stage.version)
    if found is None:
        raise ParameterInvalid(f"stages.{stage.name}: there is no version {named}")
    if found.stages:
        raise ParameterInvalid(
            f"stages.{stage.name}: {named} is an ensemble; name the stages that it has"
        )
    return found


def _check_names(stage: Staged, version: ModelVersion) -> None:
    """Every input is given something, and nothing is named that is not there."""
    for field, names, known in (
        ("inputs", stage.inputs, version.inputs),
        ("outputs", stage.outputs, version.outputs),
    ):
        own = [tensor.name for tensor in known]
        for name in names:
            if name not in own:
                raise ParameterInvalid(
                    f"stages.{stage.name}.{field}: {version.key} has none called {name!r}; "
                    f"it has: {', '.join(own)}"
                )
    missing = [tensor.name for tensor in version.inputs if tensor.name not in stage.inputs]
    if missing:
        raise ParameterInvalid(
            f"stages.{stage.name}.inputs: {version.key} also takes {', '.join(missing)}"
        )


def _tensors(definition: Definition, versions: Mapping[str, ModelVersion]) -> dict[str, _Tensor]:
    """Every tensor of the ensemble, by its name; each has one origin."""
    found = {
        tensor.name: _Tensor(
            _CALLER, TensorSpecification(tensor.name, tensor.datatype, tuple(tensor.shape))
        )
        for tensor in definition.inputs
    }
    for stage in definition.stages:
        own = {tensor.name: tensor for tensor in versions[stage.name].outputs}
        for name, tensor in stage.outputs.items():
            if tensor in found:
                raise ParameterInvalid(
                    f"stages.{stage.name}.outputs: {tensor!r} already comes from "
                    f"{found[tensor].origin}; give it another name"
                )
            found[tensor] = _Tensor(f"stage {stage.name}", own[name])
    return found


def _check_inputs(stage: Staged, version: ModelVersion, tensors: Mapping[str, _Tensor]) -> None:
    own = {tensor.name: tensor for tensor in version.inputs}
    for name, source in stage.inputs.items():
        where = f"stages.{stage.name}.inputs.{name}"
        if source not in tensors:
            raise ParameterInvalid(
                f"{where}: nothing gives {source!r}; there are: {', '.join(sorted(tensors))}"
            )
        _check_fit(where, given=tensors[source], taken=own[name])


def _check_fit(where: str, *, given: _Tensor, taken: TensorSpecification) -> None:
    """Datatype and shape; a dimension that varies fits every size."""
    said = given.specification
    if said.datatype != taken.datatype:
        raise ParameterInvalid(
            f"{where}: {given.origin} gives {said.datatype}, {taken.datatype} is taken"
        )
    fits = len(said.shape) == len(taken.shape) and all(
        -1 in pair or pair[0] == pair[1] for pair in zip(said.shape, taken.shape, strict=True)
    )
    if not fits:
        raise ParameterInvalid(
            f"{where}: {given.origin} gives the shape {list(said.shape)}, "
            f"{list(taken.shape)} is taken"
        )


def _check_order(stages: Sequence[Staged]) -> None:
    """No stage waits for itself."""
    origins = {tensor: stage.name for stage in stages for tensor in stage.outputs.values()}
    waits = {
        stage.name: {origins[each] for each in stage.inputs.values() if each in origins}
        for stage in stages
    }
    while ready := [name for name, others in waits.items() if not others]:
        for name in ready:
            del waits[name]
        for others in waits.values():
            others.difference_update(ready)
    if waits:
        raise ParameterInvalid(f"stages: {', '.join(waits)} wait for each other in a cycle")


def _check_ends(definition: Definition, tensors: Mapping[str, _Tensor]) -> None:
    """Every input goes to a stage, and every output comes from one."""
    used = {each for stage in definition.stages for each in stage.inputs.values()}
    for tensor in definition.inputs:
        if tensor.name not in used:
            raise ParameterInvalid(f"inputs: no stage takes {tensor.name!r}")
    for tensor in definition.outputs:
        given = tensors.get(tensor.name)
        if given is None or given.origin == _CALLER:
            raise ParameterInvalid(f"outputs: no stage gives {tensor.name!r}")
        said = TensorSpecification(tensor.name, tensor.datatype, tuple(tensor.shape))
        _check_fit(f"outputs.{tensor.name}", given=given, taken=said)


def _check_recording(definition: Definition, versions: Mapping[str, ModelVersion]) -> None:
    """What the ensemble does not record as it is, its stages must not record either."""
    for stage in definition.stages:
        own = dict(versions[stage.name].recording.fields)
        for name, tensor in _mapped(stage):
            wanted = definition.recording.fields.get(tensor, "keep")
            if _HIDING[own.get(name, "keep")] < _HIDING[wanted]:
                raise ParameterInvalid(
                    f"recording.fields.{tensor}: {wanted} here, but stage {stage.name} records it "
                    f"as its own {name!r}: say {wanted} there, too"
                )


def _mapped(stage: Staged) -> Iterator[tuple[str, str]]:
    yield from stage.inputs.items()
    yield from stage.outputs.items()
