"""What the groups of settings are made of."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Port = Annotated[int, Field(ge=1, le=65535)]
Seconds = Annotated[float, Field(gt=0, le=86_400)]
Count = Annotated[int, Field(ge=1)]
Bytes = Annotated[int, Field(ge=1)]


class Group(BaseModel):
    """A frozen group; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)
