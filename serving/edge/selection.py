"""Which outputs a request wants, and how: in JSON or binary, as they are or as the best classes.

The rules are those of the binary data extension (`binary_data`, `binary_data_output`) and of the
classification extension (`classification`: so many of the best elements of each row, as strings
`value:index`). A request that names no outputs gets all of them.
"""

from collections.abc import Sequence
from typing import Final

from serving.core.models import ModelVersion
from serving.edge.messages import OutputMessage, Parameters
from serving.errors import DatatypeMismatch, ParameterInvalid, RequestInvalid
from serving.gateway.calls import WantedOutput

_UNRANKED: Final = frozenset({"BOOL", "BF16", "BYTES"})
"""Datatypes whose elements are not ranked."""


class OutputSelection:
    """What requests to one model version may ask for."""

    def __init__(self, version: ModelVersion) -> None:
        self._declared = version.outputs
        self._indices = {tensor.name: index for index, tensor in enumerate(version.outputs)}
        self.has_plain = all(tensor.datatype != "BF16" for tensor in version.outputs)
        """Whether every output has a JSON form, so that a request may say nothing of outputs."""

    def choose(
        self,
        outputs: Sequence[OutputMessage] | None,
        parameters: Parameters | None,
        *,
        binary: bool = False,
    ) -> Sequence[WantedOutput] | None:
        """What to answer with; None for every output in JSON.

        binary: the form where the request does not name one. Raises a RequestInvalid.
        """
        binary = flag(parameters, "binary_data_output", default=binary)
        if not outputs:
            if not binary and self.has_plain:
                return None
            return [self._checked(WantedOutput(i, binary)) for i in range(len(self._declared))]
        if len(outputs) > len(self._declared):
            raise RequestInvalid("an output may be requested only once")
        wanted: dict[int, WantedOutput] = {}
        for output in outputs:
            index = self._indices.get(output.name)
            if index is None:
                raise RequestInvalid(f"outputs are {', '.join(self._indices)}")
            if index in wanted:
                raise RequestInvalid("an output may be requested only once")
            form = flag(output.parameters, "binary_data", default=binary)
            wanted[index] = self._checked(WantedOutput(index, form, _classes(output.parameters)))
        return list(wanted.values())

    def _checked(self, wanted: WantedOutput) -> WantedOutput:
        declared = self._declared[wanted.output]
        if wanted.classes and declared.datatype in _UNRANKED:
            raise DatatypeMismatch(f"output {declared.name}: {declared.datatype} has no classes")
        if declared.datatype == "BF16" and not wanted.binary:
            raise DatatypeMismatch(f"output {declared.name}: ask for BF16 as binary data")
        return wanted


def flag(parameters: Parameters | None, name: str, *, default: bool) -> bool:
    """A parameter that is true or false. Raises ParameterInvalid when it is neither."""
    value = (parameters or {}).get(name, default)
    if not isinstance(value, bool):
        raise ParameterInvalid(f"parameter {name} must be true or false")
    return value


def _classes(parameters: Parameters | None) -> int:
    value = (parameters or {}).get("classification", 0)
    if type(value) is not int or value < 0:
        raise ParameterInvalid("parameter classification must be a whole number, 0 for none")
    return value
