"""ZeRO-3 keeps a parameter as one shard per process: whole ones out of shards, and shards out of whole ones.

All but `shard_of` are collective: every process must call them, in the same order.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch import distributed as dist


def whole(parameter: nn.Parameter) -> Tensor:
    """A parameter's values, in shards or not."""
    shard: Tensor | None = getattr(parameter, "ds_tensor", None)
    return parameter.detach() if shard is None else joined(shard.detach(), parameter)


def joined(shard: Tensor, parameter: Any) -> Tensor:
    """The tensor whose shards, laid out like a sharded parameter's, the processes hold."""
    parts = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
    dist.all_gather(parts, shard.contiguous())
    return torch.cat(parts)[: parameter.ds_numel].view(parameter.ds_shape)


def shard_of(tensor: Tensor, parameter: Any) -> Tensor:
    """This process's part of a tensor, laid out like a sharded parameter; zeros behind its end."""
    size = parameter.ds_tensor.numel()
    flat = tensor.new_zeros(size * dist.get_world_size())
    flat[: tensor.numel()] = tensor.flatten()
    return flat[size * dist.get_rank() :][:size].clone()


_LEFT_BEHIND = ("ds_", "pre_bwd_fn", "post_bwd_fn", "applied_pre_backward", "_external_params", "_original_")
"""What an engine leaves on modules (DeepSpeed 0.19). The next one would take its hooks for its own, and never
let go of what they fetch."""


@torch.no_grad()
def made_whole(model: nn.Module) -> None:
    """Gives every module plain parameters with the values of its sharded ones; shared ones stay shared.

    Only once no engine has the model any more.
    """
    plain: dict[int, nn.Parameter] = {}
    for module in model.modules():
        own: dict[str, nn.Parameter | None] = {}
        for name, p in module._parameters.items():
            if p is not None and id(p) not in plain:
                plain[id(p)] = nn.Parameter(whole(p).clone(), requires_grad=p.requires_grad)
            own[name] = None if p is None else plain[id(p)]
        module._parameters = own  # DeepSpeed had put a dictionary of its own in its place
        for name in [name for name in vars(module) if name.startswith(_LEFT_BEHIND)]:
            delattr(module, name)
