"""What an optimizer has learned, by the names of parameters and groups; to a file, and back into the optimizer."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from safetensors.torch import load_file
from torch import Tensor, nn
from torch.optim import Optimizer

from dora_core.header import read_header
from dora_core.tensorfile import write_tensors

# Of each parameter by its name, of each group by "group <name>"; those without a step so far are missing.
OptimizerState = dict[str, dict[str, Tensor | float]]
NUMBERS = "dora_studio.numbers"


def state_of(
    optimizer: Optimizer, named: Mapping[str, nn.Parameter], group_state: Sequence[str] = ()
) -> OptimizerState:
    """`group_state`: the keys of its groups that change as it learns."""
    own = {name: dict(optimizer.state.get(parameter, {})) for name, parameter in named.items()}
    groups = {
        _named(group): {key: group[key] for key in group_state if key in group} for group in optimizer.param_groups
    }
    return {owner: values for owner, values in (own | groups).items() if values}


def put_back(state: OptimizerState, optimizer: Optimizer, named: Mapping[str, nn.Parameter]) -> None:
    """Through its own `load_state_dict`, which knows where each of its tensors has to lie."""
    names = {id(parameter): name for name, parameter in named.items()}
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    packed = optimizer.state_dict()
    own = {number: state.get(names[id(parameter)]) for number, parameter in enumerate(parameters)}
    packed["state"] = {number: values for number, values in own.items() if values}
    packed["param_groups"] = [group | state.get(_named(group), {}) for group in packed["param_groups"]]
    optimizer.load_state_dict(packed)


def write_optimizer(path: Path, state: OptimizerState) -> str:
    """Tensors as they are, numbers in the metadata; returns the file's SHA-256."""
    flat = {f"{owner}.{key}": value for owner, values in state.items() for key, value in values.items()}
    tensors = {name: value for name, value in flat.items() if isinstance(value, Tensor)}
    numbers = {name: value for name, value in flat.items() if not isinstance(value, Tensor)}
    return write_tensors(path, tensors, {NUMBERS: json.dumps(numbers)} if numbers else {}).sha256


def read_optimizer(path: Path) -> OptimizerState:
    state: OptimizerState = {}
    numbers: dict[str, float] = json.loads(read_header(path).metadata.get(NUMBERS, "{}"))
    for name, value in (load_file(path) | numbers).items():
        owner, _, key = name.rpartition(".")
        state.setdefault(owner, {})[key] = value
    return state


def _named(group: Mapping[str, object]) -> str:
    return f"group {group['name']}"
