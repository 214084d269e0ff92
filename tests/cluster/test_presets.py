from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from cluster.errors import BadConfiguration
from cluster.presets import dump_config, load_config, preset_names, setting_names
from learner.config import StepGaeConfig, ValueHeadConfig
from learner.credit.config import LeaveOneOutConfig, StepReinforcePpConfig

MODELS = {"rollout": {"model": "here"}, "learner": {"model_path": "here"}}


@pytest.fixture
def preset(tmp_path: Path):
    """Write a preset file and give its path."""

    def write(**settings: object) -> str:
        path = tmp_path / "mine.yaml"
        path.write_text(yaml.safe_dump({"name": "mine", **MODELS, **settings}))
        return str(path)

    return write


@pytest.mark.parametrize("name", preset_names())
def test_every_preset_loads_and_survives_being_dumped_and_read_again(name: str, tmp_path: Path) -> None:
    config = load_config(name)
    assert config.name == name
    copy = tmp_path / "copy.yaml"
    copy.write_text(dump_config(config))
    assert load_config(str(copy)) == config


def test_the_presets_that_the_documents_promise_are_there() -> None:
    assert {"quickstart", "qwen3-1.7b-1gpu", "qwen2.5-7b-8gpu"} <= set(preset_names())


def test_an_override_changes_one_setting_and_leaves_the_rest() -> None:
    plain, changed = load_config("quickstart"), load_config("quickstart", ["loop.iterations=7"])
    assert changed.loop.iterations == 7
    assert changed.model_copy(update={"loop": plain.loop}) == plain


def test_an_override_may_be_a_list() -> None:
    assert load_config("quickstart", ["task.levels=[L0, L3]"]).task.levels == ("L0", "L3")


def test_a_later_override_wins() -> None:
    assert load_config("quickstart", ["seed=1", "seed=2"]).seed == 2


def test_another_kind_takes_none_of_the_settings_of_the_old_one() -> None:
    config = load_config("quickstart", ["credit.kind=step_reinforce_pp"])
    assert config.credit == StepReinforcePpConfig()


def test_settings_of_a_variant_follow_its_kind() -> None:
    overrides = ["credit.kind=step_gae", "credit.critic.kind=value_head", "credit.critic.lr=0.01"]
    assert load_config("quickstart", overrides).credit == StepGaeConfig(critic=ValueHeadConfig(lr=0.01))


def test_a_deterministic_run_is_float32_on_both_sides() -> None:
    config = load_config("quickstart", deterministic=True)
    assert (config.deterministic, config.learner.dtype, config.rollout.engine.dtype) == (True, "float32", "float32")


@pytest.mark.parametrize(
    ("settings", "wrong", "right"),
    [
        ({"lop": {}}, "lop", "loop"),
        ({"loop": {"iteration": 3}}, "loop.iteration", "loop.iterations"),
        ({"learner": {"model_path": "x", "optimizer": {}}}, "learner.optimizer", "learner.optimiser"),
        ({"credit": {"kind": "step_gae", "gama": 0.9}}, "credit.gama", "credit.gamma"),
        (
            {"credit": {"kind": "step_gae", "critic": {"kind": "value_head", "backbones": "shared"}}},
            "credit.critic.backbones",
            "credit.critic.backbone",
        ),
        (
            {"credit": {"kind": "step_gae", "critic": {"kind": "progress_table", "prior_visit": 1}}},
            "credit.critic.prior_visit",
            "credit.critic.prior_visits",
        ),
    ],
)
def test_an_unknown_key_is_answered_with_the_nearest_setting(preset, settings: dict, wrong: str, right: str) -> None:
    with pytest.raises(BadConfiguration) as caught:
        load_config(preset(**settings))
    assert f"  {wrong}: " in str(caught.value)
    assert f"did you mean {right!r}?" in str(caught.value)


def test_a_setting_of_another_variant_is_refused(preset) -> None:
    with pytest.raises(BadConfiguration, match=r"credit\.lam: Extra inputs are not permitted"):
        load_config(preset(credit={"kind": "step_reinforce_pp", "lam": 0.9}))


def test_an_unknown_kind_is_answered_with_the_known_ones(preset) -> None:
    with pytest.raises(BadConfiguration, match=r"credit: .*'step_gae', 'token_gae_masked', 'bilevel_gae'"):
        load_config(preset(credit={"kind": "gae"}))


def test_credit_by_continuations_cannot_be_charged_with_a_kl_that_they_do_not_have() -> None:
    in_reward = ["learner.loss.kl.kind=reference", "learner.loss.kl.place=reward"]
    with pytest.raises(BadConfiguration, match=r"continuations .* would not; set learner\.loss\.kl\.place to loss"):
        load_config("quickstart", ["credit.kind=monte_carlo", *in_reward])
    in_loss = ["learner.loss.kl.kind=reference", "learner.loss.kl.place=loss"]
    assert load_config("quickstart", ["credit.kind=monte_carlo", *in_loss]).reopens_sessions


def test_credit_by_leave_one_out_needs_the_replays_that_measure_it() -> None:
    with pytest.raises(BadConfiguration, match=r"set rewards\.signals\.contribution\.kind=leave_one_out"):
        load_config("quickstart", ["credit.kind=leave_one_out"])
    replayed = ["rewards.signals.contribution.kind=leave_one_out", "credit.kind=leave_one_out"]
    assert load_config("quickstart", replayed).credit == LeaveOneOutConfig()


def test_a_missing_model_is_named(tmp_path: Path) -> None:
    path = tmp_path / "no-model.yaml"
    path.write_text("name: no-model\nlearner: {model_path: x}\n")
    with pytest.raises(BadConfiguration, match=r"rollout: Field required"):
        load_config(str(path))


def test_a_value_of_the_wrong_type_is_shown_with_what_was_expected() -> None:
    with pytest.raises(BadConfiguration, match=r"loop\.iterations: Input should be a valid integer.* found 'many'"):
        load_config("quickstart", ["loop.iterations=many"])


def test_a_value_out_of_range_is_shown_with_its_bound() -> None:
    with pytest.raises(BadConfiguration, match=r"credit\.gamma: .*less than or equal to 1; found 1\.5"):
        load_config("quickstart", ["credit.gamma=1.5"])


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("loop.iterations", r"expected setting=value, as in loop\.iterations=50"),
        ("=3", r"expected setting=value"),
        ("loop.iteration=3", r"no setting 'loop\.iteration'; did you mean 'loop\.iterations'\?"),
        ("iterations=3", r"no setting 'iterations'"),
        ("name=[", r"not valid YAML"),
    ],
)
def test_a_bad_override_says_what_is_wrong_with_it(override: str, message: str) -> None:
    with pytest.raises(BadConfiguration, match=message):
        load_config("quickstart", [override])


def test_an_override_below_a_setting_that_is_no_mapping_is_refused(preset) -> None:
    with pytest.raises(BadConfiguration, match=r"loop is set to 3, expected a mapping"):
        load_config(preset(loop=3), ["loop.iterations=5"])


def test_an_unknown_preset_is_answered_with_the_nearest_one() -> None:
    with pytest.raises(BadConfiguration, match=r"neither a preset nor a file; did you mean 'quickstart'\?"):
        load_config("quickstrat")


@pytest.mark.parametrize(
    ("text", "message"), [("a: [", "not valid YAML"), ("- a\n- b\n", "found list, expected a mapping")]
)
def test_a_file_that_is_no_preset_is_refused(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "wrong.yaml"
    path.write_text(text)
    with pytest.raises(BadConfiguration, match=message):
        load_config(str(path))


def test_every_variant_has_its_settings_listed() -> None:
    names = set(setting_names())
    assert {"credit.lam", "credit.critic.backbone", "credit.critic.decay", "learner.loss.kl.coef"} <= names


def test_more_minibatches_than_groups_are_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"learner.minibatches is 5, expected at most task.per_iteration.* 4"):
        load_config("tiny", ["learner.minibatches=5", "task.per_iteration=4"])


def test_a_training_temperature_that_the_ratios_do_not_know_is_refused() -> None:
    with pytest.raises(BadConfiguration, match=r"temperature is 0.8, expected 1"):
        load_config("tiny", ["rollout.sampling.temperature=0.8"])


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ["learner.loss.kl.kind=reference", "learner.loss.kl.place=reward", "credit.kind=grpo"],
            r"kl\.place is reward and credit\.kind is grpo, which reads no step reward.*set .* to loss",
        ),
        (
            ["credit.critic.kind=value_head", "credit.critic.clip=0.2", "learner.minibatches=1"],
            r"credit\.critic\.clip is set and an update is one optimiser step.*raise learner\.passes",
        ),
        (
            ["credit.kind=eto", "learner.loss.kl.kind=reference", "learner.loss.aggregation=step_mean"],
            r"credit\.kind is 'eto' and learner\.loss\.aggregation, learner\.loss\.kl set: .*drop them",
        ),
        (["credit.kind=eto", "credit.clip=2.0"], r"eto: clip set; expected the default"),
        (["credit.kind=eto", "credit.whiten.kind=batch"], r"eto: whiten set; expected the default"),
    ],
)
def test_settings_of_credit_and_objective_that_undo_each_other_are_refused(overrides: list[str], message: str) -> None:
    with pytest.raises(BadConfiguration, match=message):
        load_config("quickstart", overrides)


def test_a_value_clip_acts_where_an_update_takes_several_steps() -> None:
    overrides = ["credit.critic.kind=value_head", "credit.critic.clip=0.2", "learner.minibatches=3"]
    assert load_config("quickstart", overrides).credit == StepGaeConfig(
        gamma=0.95, lam=0.2, critic=ValueHeadConfig(clip=0.2)
    )
