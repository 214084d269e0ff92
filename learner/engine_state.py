"""What an update changes, parameter by parameter, wherever DeepSpeed keeps it: master weights and Adam's moments.

Owns `Piece`, the three functions that every checkpoint goes through, and `copy_weights`. Consumes a DeepSpeed engine at
any ZeRO stage, offloaded or not; produces live views of its float32 state under the names of the parameters. A name and
an index into the flattened parameter mean the same at every stage and on every number of ranks, so what one layout
wrote, another can read.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import deepspeed
import torch
from torch import Tensor

KINDS = ("master", "exp_avg", "exp_avg_sq")
"""Master weights, Adam's first moment, its second."""

ReadRange = Callable[[str, str, int, int], Tensor]
"""(kind, name, start, numel) → [numel] float32."""


@dataclass(frozen=True, slots=True)
class Piece:
    """A contiguous run of one parameter's float32 state."""

    name: str
    start: int
    """Index of its first element in the flattened parameter."""
    tensors: Mapping[str, Tensor]
    """[n] float32 for each of `KINDS`."""

    @property
    def numel(self) -> int:
        return self.tensors["master"].numel()

    def part(self, index: int, count: int) -> Piece:
        """The `index`-th of `count` parts of about equal size."""
        low, high = self.numel * index // count, self.numel * (index + 1) // count
        return Piece(self.name, self.start + low, {kind: tensor[low:high] for kind, tensor in self.tensors.items()})


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a piece lives: `numel` elements from `offset` on in the tensor that the optimiser's state belongs to."""

    start: int
    owner: Tensor
    offset: int
    numel: int


def parameter_sizes(engine: Any) -> dict[str, int]:
    """Elements of every trained parameter, by name."""
    return {name: getattr(p, "ds_numel", p.numel()) for name, p in _trained(engine)}


def held_pieces(engine: Any) -> list[Piece]:
    """Live views of all float32 state on this rank: its partition, or all of everything at stage 0."""
    found: list[Piece] = []
    masters = _master_copies(engine)
    for name, parameter in _trained(engine):
        place = _place(engine, parameter, masters)
        if place is not None and place.numel > 0:
            found.append(Piece(name, place.start, _views(engine, place)))
    return found


def own_pieces(engine: Any, rank: int, ranks: int) -> list[Piece]:
    """What this rank has to write, so that all ranks together write everything once."""
    held = held_pieces(engine)
    if engine.zero_optimization_stage() > 0:
        return held
    return [part for piece in held if (part := piece.part(rank, ranks)).numel > 0]


def adam_steps(engine: Any) -> int:
    """Optimiser steps behind the moments; one number, since all parameters step together."""
    found = {int(_adam_state(engine, owner)["step"]) for owner in _owners(engine)}
    if len(found) != 1:
        raise RuntimeError(f"optimiser: steps {sorted(found)} of its parameters; expected one number for all")
    return found.pop()


def restore(engine: Any, read: ReadRange, steps: int) -> None:
    """Fill master weights and moments from `read`, and the weights of the forward pass from the masters. Collective."""
    for piece in held_pieces(engine):
        for kind, tensor in piece.tensors.items():
            tensor.copy_(read(kind, piece.name, piece.start, piece.numel))
    for owner in _owners(engine):
        state = _adam_state(engine, owner)
        state["step"] = state["step"].fill_(steps) if isinstance(state["step"], Tensor) else steps
    _refresh_weights(engine, read)


def copy_weights(engine: Any, source: str, target: str) -> None:
    """Give every trained parameter under the prefix `target` the weights of its namesake under `source`, master copies
    included; moments stay. Collective."""
    parameters = dict(_trained(engine))
    pieces = {piece.name: piece for piece in held_pieces(engine)}
    partitioned = engine.zero_optimization_stage() == 3
    for name in [name for name in parameters if name.startswith(target)]:
        origin = parameters[source + name.removeprefix(target)]
        with torch.no_grad(), deepspeed.zero.GatheredParameters([origin], enabled=partitioned):
            if name in pieces:
                start, numel = pieces[name].start, pieces[name].numel
                pieces[name].tensors["master"].copy_(origin.reshape(-1).narrow(0, start, numel))
            if not partitioned:
                parameters[name].copy_(origin)
    if partitioned:
        _refresh_partitions(engine)


def _trained(engine: Any) -> Iterator[tuple[str, Any]]:
    return ((name, p) for name, p in engine.module.named_parameters() if p.requires_grad)


def _place(engine: Any, parameter: Any, masters: Mapping[Any, Tensor]) -> _Place | None:
    """None where another rank holds all of the parameter's state."""
    if hasattr(parameter, "ds_id"):
        return _partitioned_place(engine.optimizer, parameter)
    if hasattr(parameter, "_hp_mapping"):
        return _mapped_place(engine.basic_optimizer, parameter._hp_mapping)
    return _Place(0, masters.get(parameter, parameter), 0, parameter.numel())


def _partitioned_place(optimiser: Any, parameter: Any) -> _Place:
    """ZeRO 3: equal parts of every parameter, the last one padded."""
    group, offset, size = optimiser.grad_position[optimiser.get_param_id(parameter)]
    start = size * torch.distributed.get_rank()
    numel = max(0, min(size, parameter.ds_numel - start))
    return _Place(start, optimiser.fp32_partitioned_groups_flat[group], offset, numel)


def _mapped_place(optimiser: torch.optim.Optimizer, mapping: Any) -> _Place | None:
    """ZeRO 1 and 2: a part of all parameters laid end to end."""
    if mapping is None:
        return None
    [owner] = optimiser.param_groups[mapping.param_group_index]["params"]
    address = mapping.hp_fragment_address
    return _Place(mapping.lp_fragment_address.start, owner, address.start, address.numel)


def _master_copies(engine: Any) -> dict[Any, Tensor]:
    """Stage 0 in bfloat16: parameter → its master copy; empty in float32, where a parameter is its own."""
    if not hasattr(engine.optimizer, "fp32_groups"):
        return {}
    pairs = zip(engine.optimizer.fp16_groups, engine.optimizer.fp32_groups, strict=True)
    return {p: master for group, copies in pairs for p, master in zip(group, copies, strict=True)}


def _owners(engine: Any) -> list[Tensor]:
    if engine.zero_optimization_stage() == 3:
        return list(engine.optimizer.fp32_partitioned_groups_flat)
    return [owner for group in engine.basic_optimizer.param_groups for owner in group["params"]]


def _views(engine: Any, place: _Place) -> dict[str, Tensor]:
    state = _adam_state(engine, place.owner)
    whole = {"master": place.owner.data, "exp_avg": state["exp_avg"], "exp_avg_sq": state["exp_avg_sq"]}
    return {kind: tensor.view(-1).narrow(0, place.offset, place.numel) for kind, tensor in whole.items()}


def _adam_state(engine: Any, owner: Tensor) -> dict[str, Any]:
    """Adam's state of a tensor; made where the first step, which would make it, has not been taken."""
    state: dict[str, Any] = engine.basic_optimizer.state[owner]
    if "exp_avg" not in state:
        zeros = {name: torch.zeros_like(owner, requires_grad=False) for name in ("exp_avg", "exp_avg_sq")}
        state.update(step=torch.zeros((), dtype=torch.float32, device=owner.device), **zeros)
    return state


def _refresh_weights(engine: Any, read: ReadRange) -> None:
    if engine.zero_optimization_stage() == 3:
        _refresh_partitions(engine)
        return
    with torch.no_grad():
        for name, parameter in _trained(engine):
            parameter.copy_(read("master", name, 0, parameter.numel()).view_as(parameter))


def _refresh_partitions(engine: Any) -> None:
    masters = {piece.name: piece.tensors["master"] for piece in held_pieces(engine)}
    for name, parameter in _trained(engine):
        if name in masters:
            parameter.ds_tensor.data.view(-1)[: masters[name].numel()].copy_(masters[name])
    persistent = engine.optimizer.persistent_parameters
    if persistent:
        # DeepSpeed keeps small parameters whole between steps: these copies are of the old weights.
        persistent[0].partition(persistent)
        persistent[0].all_gather(persistent)
