"""What a rank reads for an utterance critic: hidden states of the policy, whatever row a trajectory lies in."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.nn import functional as F
from transformers import AutoModelForCausalLM

from learner.rank import LearnerRank
from learner.utterance_features import UtteranceFeatures, utterance_items
from tests.learner.batches import batch, save_tiny_model, settings
from tests.learner.builders import scored, step

pytestmark = [
    pytest.mark.timeout(240),
    # DeepSpeed still gathers under the name that torch 2.13 retires.
    pytest.mark.filterwarnings("ignore:`torch.distributed.all_gather_into_tensor` is deprecated:FutureWarning"),
]

WIDTH = 32


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> str:
    directory = str(tmp_path_factory.mktemp("model"))
    save_tiny_model(directory)
    return directory


def test_a_step_is_read_where_its_state_and_its_action_end() -> None:
    """Sequence 1 2 3 | 4 5 | 7 | 8: states end at 2 and 5, actions at 4 and 6."""
    one = scored([0.0, 1.0], steps=[step((1, 2, 3), (4, 5)), step((7,), (8,))])
    lost = scored([], steps=[], id="lost", solved=None)
    [item] = utterance_items([lost.trajectory, one.trajectory])
    assert (item.index, item.value_at, item.action_at) == (1, (2, 4, 5, 6), ())


@pytest.mark.parametrize(("stage", "dtype"), [(0, "float32"), (3, "float32"), (1, "bfloat16")])
def test_features_are_the_hidden_states_that_transformers_has_there(
    path: str, alone: None, stage: Any, dtype: str
) -> None:
    trajectories = [one.scored.trajectory for one in batch()]
    found = LearnerRank(settings(path, zero_stage=stage, dtype=dtype), None, 0, 1).features(trajectories)
    assert sorted(found) == list(range(len(trajectories)))
    model = AutoModelForCausalLM.from_pretrained(path, dtype=torch.float32)
    for index, one in enumerate(trajectories):
        ids = torch.tensor([list(one.token_ids())])
        with torch.no_grad():
            hidden = model(ids, output_hidden_states=True).hidden_states[-1][0]
        # 12 tokens of prompt, 6 of action, 5 of observation, 4 of action.
        wanted = F.layer_norm(hidden, (WIDTH,))
        states, actions = UtteranceFeatures.of(found[index])
        gap = 2e-3 if dtype == "float32" else 0.1
        torch.testing.assert_close(states.float(), wanted[[11, 22]], atol=gap, rtol=gap)
        torch.testing.assert_close(actions.float(), wanted[[17, 26]], atol=gap, rtol=gap)


def test_a_rank_without_a_step_to_read_has_no_features(path: str, alone: None) -> None:
    lost = scored([], steps=[], id="lost", solved=None)
    assert LearnerRank(settings(path), None, 0, 1).features([lost.trajectory]) == {}
