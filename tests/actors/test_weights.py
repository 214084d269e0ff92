"""Weights as one buffer and back."""

from __future__ import annotations

import pytest
import torch

from actors.errors import WeightsCorrupted
from actors.weights import ALIGNMENT_BYTES, flatten


def test_tensors_come_back_bit_for_bit_in_their_own_types_and_order() -> None:
    sent = {
        "b.half": torch.tensor([[1.5, -2.0, 3.25]], dtype=torch.bfloat16),
        "a.full": torch.tensor([1e-30, float("inf"), -0.0], dtype=torch.float32),
        "scalar": torch.tensor(7.0),
        "transposed": torch.arange(6, dtype=torch.float32).reshape(2, 3).T,
    }
    manifest, buffer = flatten(sent)
    manifest.verify(buffer)
    received = dict(manifest.tensors(buffer))
    assert list(received) == list(sent)
    for name, tensor in sent.items():
        assert received[name].dtype == tensor.dtype
        assert received[name].shape == tensor.shape
        assert torch.equal(received[name], tensor)


def test_every_tensor_starts_at_an_aligned_byte_and_none_overlap() -> None:
    manifest, buffer = flatten({str(n): torch.ones(n, dtype=torch.bfloat16) for n in (1, 33, 32)})
    assert [entry.offset for entry in manifest.entries] == [0, 64, 192]
    assert manifest.byte_count == buffer.nbytes == 256
    assert all(entry.offset % ALIGNMENT_BYTES == 0 for entry in manifest.entries)


def test_a_published_buffer_does_not_change_when_the_learner_goes_on() -> None:
    weight = torch.ones(3)
    manifest, buffer = flatten({"w": weight})
    weight.fill_(5.0)
    assert dict(manifest.tensors(buffer))["w"].tolist() == [1.0, 1.0, 1.0]


def test_one_flipped_bit_is_noticed() -> None:
    manifest, buffer = flatten({"w": torch.ones(100)})
    buffer[17] ^= 1
    with pytest.raises(WeightsCorrupted, match=r"digest [0-9a-f]{12}… over 448 bytes, expected [0-9a-f]{12}…"):
        manifest.verify(buffer)


def test_two_models_with_equal_bytes_have_equal_digests() -> None:
    assert flatten({"w": torch.ones(4)})[0] == flatten({"w": torch.ones(4)})[0]
    assert flatten({"w": torch.ones(4)})[0].digest != flatten({"w": torch.zeros(4)})[0].digest
