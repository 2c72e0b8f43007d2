"""The types that the keys of the schema share, and the decorator of its sections."""

from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeVar, dataclass_transform

from pydantic import ConfigDict, Field

T = TypeVar("T")

# Strict, because pydantic would otherwise turn true into 1 and "64" into 64. A number of 64 bits holds any count here.
Positive = Annotated[int, Field(gt=0, lt=2**63, strict=True)]
NonNegative = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
# Bounded, so that a slip of the keyboard is told in a sentence and not by the allocator.
Dimension = Annotated[int, Field(gt=0, le=4096, strict=True)]
Timesteps = Annotated[int, Field(gt=0, le=1_000_000, strict=True)]
PositiveFloat = Annotated[float, Field(gt=0, strict=True, allow_inf_nan=False)]
NonNegativeFloat = Annotated[float, Field(ge=0, strict=True, allow_inf_nan=False)]
Probability = Annotated[float, Field(ge=0, le=1, strict=True)]
ProbabilityBelowOne = Annotated[float, Field(ge=0, lt=1, strict=True)]
Share = Annotated[float, Field(gt=0, le=1, strict=True)]
# sigma_rel of a power-function average: of the widest, a plain mean over the run (gamma 0), it is 12 ** -0.5 = 0.289.
LONGEST_EMA = 0.28
EmaLength = Annotated[float, Field(gt=0, le=LONGEST_EMA, strict=True)]
Switch = Annotated[bool, Field(strict=True)]
Kernels = Literal["auto", "triton", "pytorch"]
# Bounded, so that a number of epochs always converts to a number of images.
Epochs = Annotated[float, Field(gt=0, le=1_000_000, strict=True)]
WarmupEpochs = Annotated[float, Field(ge=0, le=1_000_000, strict=True)]
NonNegativeList = Annotated[tuple[NonNegativeFloat, ...], Field(min_length=1)]
ProbabilityList = Annotated[tuple[ProbabilityBelowOne, ...], Field(min_length=1)]
PositiveList = Annotated[tuple[Dimension, ...], Field(min_length=1)]


@dataclass_transform(frozen_default=True, kw_only_default=True, field_specifiers=(field,))
def section(cls: type[T]) -> type[T]:
    """A frozen, keyword-only dataclass that pydantic validates: unknown keys refused, docstrings kept as help."""
    cls.__pydantic_config__ = ConfigDict(extra="forbid", use_attribute_docstrings=True)  # type: ignore[attr-defined]
    return dataclass(frozen=True, kw_only=True)(cls)
