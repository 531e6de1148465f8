"""How many bytes a forward pass keeps for backward, and how many are alive at the worst moment of a step.

Both counts are exact and the same on every machine. On the meta device they need no memory, so that a model of full
size can be counted anywhere.
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, UntypedStorage, nn
from torch.autograd import Function
from torch.autograd.graph import saved_tensors_hooks
from torch.nn.functional import scaled_dot_product_attention
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def saved_bytes(model: nn.Module, forward: Callable[[], object]) -> int:
    """Bytes of the storages that the graph behind the result of `forward` keeps for backward, each counted once.

    Parameters and buffers of `model` do not count: they are there anyway. On the meta device attention counts as a
    flash kernel does, which keeps its operands and its output.
    """
    kept: weakref.WeakSet[_Saved] = weakref.WeakSet()  # a graph that nothing needs any more has let go of its own

    def keep(tensor: Tensor) -> _Saved:
        saved = _Saved(tensor)
        kept.add(saved)
        return saved

    with saved_tensors_hooks(keep, lambda saved: saved.tensor), FlashAttention():
        result = forward()
    own = _storages((*model.parameters(), *model.buffers()))
    counted = sum(storage.nbytes() for storage in _storages(saved.tensor for saved in kept) - own)
    del result  # held until here, and with it the graph
    return counted


@dataclass(frozen=True, eq=False)
class _Saved:
    """What a graph holds instead of a tensor."""

    tensor: Tensor


class LiveBytes(TorchDispatchMode):
    """Counts the storages that operations make inside the `with`: `live` bytes now, `peak` bytes at the worst moment.

    What a kernel takes and gives back while it runs is not seen.
    """

    def __init__(self) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0

    def __torch_dispatch__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        # what an operation was given is either counted already or older than the `with`
        for storage in _storages(tree_leaves(result)) - _storages(tree_leaves((args, kwargs))):
            self._add(storage.nbytes())
            weakref.finalize(storage, self._add, -storage.nbytes())
        return result

    def _add(self, size: int) -> None:
        self.live += size
        self.peak = max(self.peak, self.live)


class FlashAttention(TorchFunctionMode):
    """Inside the `with`, attention on the meta device keeps for backward what a flash kernel keeps."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        if func is scaled_dot_product_attention and args[0].is_meta:
            return _Flash.apply(*args[:3])
        return func(*args, **(kwargs or {}))


class _Flash(Function):
    @staticmethod
    def forward(ctx: Any, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        output = torch.empty_like(query)
        ctx.save_for_backward(query, key, value, output)
        return output

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, ...]:
        query, key, value, _ = ctx.saved_tensors
        return torch.empty_like(query), torch.empty_like(key), torch.empty_like(value)


def _storages(values: Iterable[Any]) -> set[UntypedStorage]:
    """A storage is one Python object as long as anything holds it, so that a set counts it once."""
    return {value.untyped_storage() for value in values if isinstance(value, Tensor)}
