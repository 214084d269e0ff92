"""What can go wrong in the learner. Every error pickles, so that it crosses Ray unharmed.

LearnerError
├── NoCredit           rewards differ and yet nothing would be learned
├── UnsupportedModel   the model's head or attention is not one that packing can reproduce
├── UnsupportedDevice  what the settings ask for does not run where the rank computes
├── NonFinite          a loss or a gradient norm is not a number
├── BadCheckpoint      what a checkpoint holds is not what this learner needs
└── LearnerLost        a rank died or missed its deadline
"""

from __future__ import annotations


class LearnerError(RuntimeError):
    """Root of the learner's errors."""


class NoCredit(LearnerError):
    """What an estimator compares differs within a group, yet every advantage is exactly zero: never a valid batch."""


class UnsupportedModel(LearnerError):
    """The model computes something that the packed forward pass would not reproduce."""


class UnsupportedDevice(LearnerError):
    """PyTorch cannot do there what the settings ask for."""


class NonFinite(LearnerError):
    """A loss or a gradient norm overflowed; its step was not made, those before it in the update stand."""


class BadCheckpoint(LearnerError):
    """A checkpoint is of another model or critic, or lacks a part."""


class LearnerLost(LearnerError):
    """A rank died or did not answer in time. The gang must be started again from the last checkpoint."""
