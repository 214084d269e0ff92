"""The frozen policy that KL control and preferences compare with.

Owns `Reference` and its variants: none, a copy of the model, and other adapters on the same model. Consumes the policy
as it is when it is frozen, produces log-probabilities of packed rows and the files from which a checkpoint restores it.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor
from transformers import PreTrainedModel

from learner.config import LearnerConfig
from learner.engine import own_device
from learner.errors import BadCheckpoint
from learner.packing import PackedRow
from learner.policy import TORCH_DTYPES, PolicyWithCritic, RowOutputs, load_model
from learner.trained import WholeModel
from learner.tree_attention import choose_plan

if TYPE_CHECKING:
    from learner.lora import Adapters

Read = Callable[[PackedRow], RowOutputs]
"""The policy's forward pass without gradients; collective at ZeRO 3."""

Write = Callable[[Path], None]
"""Writes the reference into a directory; in any thread, while training goes on."""

_ADAPTERS = "adapters.safetensors"


class Reference(Protocol):
    """All ranks call each method together."""

    def freeze(self) -> None:
        """Become what the policy is now."""
        ...

    def logprobs(self, row: PackedRow) -> Tensor:
        """[N] nats, of each action token of the row; raises `RuntimeError` where nothing has been frozen."""
        ...

    def copied(self) -> Write | None:
        """What writes the reference as it is now; None where there is none yet."""
        ...

    def load(self, directory: Path) -> None:
        """Continue from a directory that was written before.

        Raises:
            BadCheckpoint: the reference there is of another kind.
        """
        ...


class NoReference:
    """Nothing compares with one."""

    def freeze(self) -> None:
        """Nothing compares with it."""

    def logprobs(self, row: PackedRow) -> Tensor:
        raise RuntimeError("reference policy: there is none; set learner.loss.kl.kind to reference")

    def copied(self) -> Write | None:
        return None

    def load(self, directory: Path) -> None:
        """A reference that the settings no longer want is left where it is."""


class ModelCopy:
    """A second model: every weight of the policy changes."""

    def __init__(self, config: LearnerConfig, trained: WholeModel) -> None:
        self._dtype = TORCH_DTYPES[config.dtype]
        self._make_plan = choose_plan(config.attention, own_device())
        self._path = config.model_path
        self._trained = trained
        self._policy: PolicyWithCritic | None = None

    def freeze(self) -> None:
        model = load_model(self._path, self._dtype)
        own = dict(model.named_parameters())
        for name, tensor in self._trained.whole():
            own[name].data.copy_(tensor)
        self._policy = self._frozen(model)

    def logprobs(self, row: PackedRow) -> Tensor:
        if self._policy is None:
            raise RuntimeError(_NOT_FROZEN)
        with torch.no_grad():
            return self._policy(row).logprobs

    def copied(self) -> Write | None:
        return None if self._policy is None else self._policy.model.save_pretrained

    def load(self, directory: Path) -> None:
        _expect(directory / "config.json", "a whole model")
        self._policy = self._frozen(load_model(str(directory), self._dtype))

    def _frozen(self, model: PreTrainedModel) -> PolicyWithCritic:
        policy = PolicyWithCritic(model, make_plan=self._make_plan)
        return policy.eval().requires_grad_(False).to(own_device())


class OtherAdapters:
    """The policy's own network with the adapters that it had: frozen weights are shared, and nothing is merged."""

    def __init__(self, adapters: Adapters, read: Read) -> None:
        self._adapters = adapters
        self._read = read
        self._is_frozen = False

    def freeze(self) -> None:
        self._adapters.freeze_reference()
        self._is_frozen = True

    def logprobs(self, row: PackedRow) -> Tensor:
        if not self._is_frozen:
            raise RuntimeError(_NOT_FROZEN)
        with self._adapters.as_reference():
            return self._read(row).logprobs

    def copied(self) -> Write | None:
        if not self._is_frozen:
            return None
        tensors = self._adapters.reference()
        return lambda directory: _write_adapters(tensors, directory)

    def load(self, directory: Path) -> None:
        _expect(directory / _ADAPTERS, "adapters")
        self._adapters.load_reference(load_file(directory / _ADAPTERS))
        self._is_frozen = True


def choose_reference(
    config: LearnerConfig, trained: WholeModel | Adapters, read: Read, *, with_reference: bool
) -> Reference:
    """The variant for what is trained; nothing is frozen yet."""
    if not with_reference:
        return NoReference()
    return ModelCopy(config, trained) if isinstance(trained, WholeModel) else OtherAdapters(trained, read)


_NOT_FROZEN = "reference policy: not frozen yet; call begin_reinforcement() before the first update"


def _write_adapters(tensors: dict[str, Tensor], directory: Path) -> None:
    directory.mkdir(parents=True, exist_ok=True)
    save_file(tensors, directory / _ADAPTERS)


def _expect(path: Path, what: str) -> None:
    if not path.is_file():
        found = sorted(file.name for file in path.parent.iterdir())
        raise BadCheckpoint(
            f"reference policy {path.parent}: found {found}, expected {what} ({path.name}); resume with the "
            "learner.trained that wrote it"
        )
