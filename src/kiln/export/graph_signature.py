"""What the inputs and outputs of an exported program are."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import Enum, auto
from typing import Any


class InputKind(Enum):
    """Where an input comes from."""

    USER_INPUT = auto()
    PARAMETER = auto()
    BUFFER = auto()
    CONSTANT_TENSOR = auto()
    CUSTOM_OBJ = auto()
    TOKEN = auto()


class OutputKind(Enum):
    """What an output is."""

    USER_OUTPUT = auto()
    LOSS_OUTPUT = auto()
    BUFFER_MUTATION = auto()
    PARAMETER_MUTATION = auto()
    GRADIENT_TO_PARAMETER = auto()
    GRADIENT_TO_USER_INPUT = auto()
    USER_INPUT_MUTATION = auto()
    TOKEN = auto()


@dataclass
class TensorArgument:
    """A tensor, by its name in the program."""

    name: str


@dataclass
class ConstantArgument:
    """A value that is no tensor, by its name; the program is for this one."""

    name: str
    value: Any


@dataclass
class InputSpec:
    """An input: its kind, its name, and for state the name under which the module has it."""

    kind: InputKind
    arg: TensorArgument | ConstantArgument
    target: str | None
    persistent: bool | None = None

    def __str__(self) -> str:
        target = "" if self.target is None else f" target={self.target!r}"
        persistent = "" if self.persistent is None else f" persistent={self.persistent}"
        return f"{self.arg.name}: {self.kind.name}{target}{persistent}"


@dataclass
class OutputSpec:
    """An output: its kind, its name, and for state that is written the name under which the module has it."""

    kind: OutputKind
    arg: TensorArgument | ConstantArgument
    target: str | None

    def __str__(self) -> str:
        target = "" if self.target is None else f" target={self.target!r}"
        return f"{self.arg.name}: {self.kind.name}{target}"


@dataclass
class ExportBackwardSignature:
    """Which outputs are gradients: programs that are exported here have none, autograd makes them."""

    gradients_to_parameters: dict[str, str] = field(default_factory=dict)
    gradients_to_user_inputs: dict[str, str] = field(default_factory=dict)
    loss_output: str = ""


@dataclass
class ExportGraphSignature:
    """The inputs and outputs of a program: parameters, buffers, constants, then what its caller gives."""

    input_specs: list[InputSpec]
    output_specs: list[OutputSpec]

    def _targets(self, kind: InputKind) -> tuple[str, ...]:
        return tuple(s.target for s in self.input_specs if s.kind is kind and s.target is not None)

    def _by_name(self, kind: InputKind) -> Mapping[str, str]:
        return {
            s.arg.name: s.target
            for s in self.input_specs
            if s.kind is kind and s.target is not None
        }

    @property
    def parameters(self) -> tuple[str, ...]:
        """The names of the parameters."""
        return self._targets(InputKind.PARAMETER)

    @property
    def buffers(self) -> tuple[str, ...]:
        """The names of the buffers."""
        return self._targets(InputKind.BUFFER)

    @property
    def non_persistent_buffers(self) -> tuple[str, ...]:
        """The names of the buffers that are not in `state_dict`."""
        return tuple(
            s.target for s in self.input_specs if s.persistent is False and s.target is not None
        )

    @property
    def lifted_tensor_constants(self) -> tuple[str, ...]:
        """The names of tensors that the code made."""
        return self._targets(InputKind.CONSTANT_TENSOR)

    @property
    def user_inputs(self) -> tuple[Any, ...]:
        """The names of tensors that the caller gives, and the values that are no tensors."""
        return tuple(
            s.arg.value if isinstance(s.arg, ConstantArgument) else s.arg.name
            for s in self.input_specs if s.kind is InputKind.USER_INPUT
        )  # fmt: skip

    @property
    def user_outputs(self) -> tuple[Any, ...]:
        """The names of results, and those that are no tensors."""
        return tuple(
            s.arg.value if isinstance(s.arg, ConstantArgument) else s.arg.name
            for s in self.output_specs if s.kind is OutputKind.USER_OUTPUT
        )  # fmt: skip

    @property
    def inputs_to_parameters(self) -> Mapping[str, str]:
        """The parameters' names by the inputs'."""
        return self._by_name(InputKind.PARAMETER)

    @property
    def inputs_to_buffers(self) -> Mapping[str, str]:
        """The buffers' names by the inputs'."""
        return self._by_name(InputKind.BUFFER)

    @property
    def inputs_to_lifted_tensor_constants(self) -> Mapping[str, str]:
        """The constants' names by the inputs'."""
        return self._by_name(InputKind.CONSTANT_TENSOR)

    @property
    def buffers_to_mutate(self) -> Mapping[str, str]:
        """The names of the buffers that the program writes, by the outputs'."""
        return {
            s.arg.name: s.target
            for s in self.output_specs if s.kind is OutputKind.BUFFER_MUTATION and s.target is not None
        }  # fmt: skip

    @property
    def user_inputs_to_mutate(self) -> Mapping[str, str]:
        """The inputs that the program writes: none are kept apart, they are written in place."""
        return {}

    @property
    def backward_signature(self) -> ExportBackwardSignature | None:
        """None: autograd makes the gradients."""
        return None

    def __str__(self) -> str:
        lines = [
            "# inputs",
            *map(str, self.input_specs),
            "",
            "# outputs",
            *map(str, self.output_specs),
        ]
        return "\n".join(lines) + "\n"
