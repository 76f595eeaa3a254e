import pytest

from charter.config import load_config
from charter.errors import ConfigError

MINIMAL = "constitution: rules.yaml\nprompts: {train: train.jsonl, heldout: heldout.jsonl}\n"


def write(tmp_path, text=MINIMAL):
    path = tmp_path / "charter.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_paths_are_relative_to_the_file(tmp_path):
    config = load_config(write(tmp_path))
    assert config.constitution == tmp_path / "rules.yaml"
    assert config.prompts.train[0].path == tmp_path / "train.jsonl"


def test_paths_in_overrides_are_relative_to_the_working_directory(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    monkeypatch.chdir(elsewhere)
    config = load_config(write(tmp_path), overrides=["prompts.train=more.jsonl"])
    assert config.prompts.train[0].path == elsewhere / "more.jsonl"
    assert config.prompts.heldout[0].path == tmp_path / "heldout.jsonl"


def test_a_reward_models_directory_is_a_path_and_other_rewards_are_names(tmp_path):
    def reinforce(rewards):
        return load_config(write(tmp_path, f"{MINIMAL}reinforce: {{{rewards}}}\n")).reinforce

    assert reinforce("reward: other/reward").reward == str(tmp_path / "other/reward")
    for name in ("model", "judge", "python:module:function"):
        assert reinforce(f"reward: {name}").reward == name
    bounded = reinforce("reward: judge, constraint: {reward: safe, level: 0.0}").constraint
    assert bounded is not None
    assert bounded.reward == str(tmp_path / "safe")


def test_the_judge_holds_no_level(tmp_path):
    bounded = "reinforce.constraint={reward: judge, level: 0.6}"
    with pytest.raises(ConfigError, match=r"constraint\.reward.*always 0\.5.*Name `model`"):
        load_config(write(tmp_path), overrides=[bounded])


def test_an_override_leaves_the_models_alone_that_it_does_not_name(tmp_path, monkeypatch):
    elsewhere = tmp_path / "elsewhere"
    for name in ("org/model", "org/other"):
        (elsewhere / name).mkdir(parents=True)
    monkeypatch.chdir(elsewhere)
    path = write(tmp_path, MINIMAL + "models: {policy: org/model}\n")
    overrides = ["models.policy.dtype=bfloat16", "models.judge=org/other"]
    models = load_config(path, overrides=overrides).models
    assert (models.policy.source, models.policy.dtype) == ("org/model", "bfloat16")
    assert models.judge is not None
    assert models.judge.source == str(elsewhere / "org/other")


def test_an_override_reaches_a_section_that_was_not_given(tmp_path):
    config = load_config(write(tmp_path), overrides=["finetune.lora.rank=4", "seed=3"])
    assert config.finetune.lora is not None
    assert (config.finetune.lora.rank, config.seed) == (4, 3)


def test_prompts_come_from_one_file_or_several_with_defaults_of_their_own(tmp_path):
    config = load_config(
        write(
            tmp_path,
            "constitution: c.yaml\nprompts:\n"
            "  train: [a.jsonl, {path: b.jsonl, kind: benign, limit: 5}]\n  heldout: h.jsonl\n",
        )
    )
    assert [source.kind for source in config.prompts.train] == ["harmful", "benign"]
    assert config.prompts.train[1].limit == 5


@pytest.mark.parametrize("where", ["models.judge", "models.policy", "reward.base"])
def test_an_endpoint_is_a_mistake_that_says_what_there_is_instead(tmp_path, where):
    section, role = where.split(".")
    path = write(tmp_path, f"{MINIMAL}{section}: {{{role}: 'https://host/v1'}}\n")
    found = rf"charter\.yaml:3:\d+: `{where}.*: https://host/v1 .* not supported yet"
    with pytest.raises(ConfigError, match=found) as refused:
        load_config(path)
    assert "python:MODULE:FUNCTION" in str(refused.value)
    assert "compare.human.path" in str(refused.value)


def test_every_training_can_spread_its_model_but_rl(tmp_path):
    spread = "".join(f"{stage}: {{shard: true}}\n" for stage in ("finetune", "reward", "dpo"))
    config = load_config(write(tmp_path, MINIMAL + spread))
    assert config.finetune.shard
    assert config.reward.shard
    assert config.dpo.shard
    path = write(tmp_path, MINIMAL + "reinforce: {shard: true}\n")
    with pytest.raises(ConfigError, match=r"charter\.yaml:3.*the weights that learn also speak"):
        load_config(path)


@pytest.mark.parametrize(
    "mix",
    ["{}", "{harmful: 0.1, benign: 0.1}", "{harmful: 0.1, benign: 0.2, borderline: 0.7}"],
)
def test_a_mix_that_some_prompts_can_meet_is_none_to_refuse(tmp_path, mix):
    config = load_config(write(tmp_path, f"{MINIMAL}compare: {{mix: {mix}}}\n"))
    assert config.compare.mix is not None


def test_a_model_is_the_starter_a_directory_or_a_hub_id(tmp_path):
    (tmp_path / "mine").mkdir()
    roles = "models: {policy: mine, critic: org/model, judge: 'scripted:s.yaml', reviser: starter}"
    models = load_config(write(tmp_path, MINIMAL + roles)).models
    assert models.policy.source == str(tmp_path / "mine")
    assert models.critic is not None
    assert models.critic.source == "org/model"
    assert models.judge is not None
    assert models.judge.source == f"scripted:{tmp_path / 's.yaml'}"
    assert models.reviser is not None
    assert models.reviser.source == "starter"


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        (MINIMAL + "finetun: {}\n", ":3:1: ", "did you mean `finetune`?"),
        (MINIMAL + "finetune:\n  epoch: 2\n", ":4:3: ", "did you mean `epochs`?"),
        (MINIMAL + "revise: {gates: {emty: true}}\n", ":3:18: ", "did you mean `empty`?"),
        (MINIMAL + "revise: {rounds: 0}\n", ":3:10: ", "greater than or equal to 1"),
        (
            MINIMAL + "revise: {threshold: 2}\n",
            ":3:10: ",
            "`revise.threshold`: Input should be less",
        ),
        (
            MINIMAL + "compare: {mix: {harmful: 0.5, benign: 0.2, borderline: 0.1}}\n",
            ":3:1: ",
            "add up to 0.8, so no prompts can meet them: raise them to 1 in all, or leave out",
        ),
        (MINIMAL + "finetune: {lr: fast}\n", ":3:12: ", "should be a valid number or 'auto'"),
        (MINIMAL + "learns: []\n", ":3:1: ", "unknown key `learns`"),
        (MINIMAL + "evaluate: {columns: []}\n", ":3:12: ", "columns"),
        (MINIMAL + "evaluate: {groups: [benign]}\n", ":3:12: ", "none that is called harmful"),
        (MINIMAL + "evaluate: {groups: [a, a]}\n", ":3:12: ", "each once"),
        (MINIMAL + "revise: {selection: some}\n", ":3:10: ", "'screen', 'random' or 'all'"),
        ("prompts: {train: a, heldout: b}\n", ":1:1: ", "`constitution` is missing; add it"),
        (
            "constitution: c\nprompts:\n  train: a\n  heldout: b\n  system: ' '\n",
            ":5:3: ",
            "`prompts.system`: the text is empty; write the system turn, or leave the key out",
        ),
    ],
)
def test_a_mistake_is_reported_with_its_place_and_remedy(tmp_path, text, place, says):
    path = write(tmp_path, text)
    with pytest.raises(ConfigError) as caught:
        load_config(path)
    assert f"{path}{place}" in str(caught.value)
    assert says in str(caught.value)


@pytest.mark.parametrize(
    ("override", "says"),
    [
        ("seed", "write it as section.key=value"),
        ("seed.x=1", "`seed` has no keys below it"),
        ("seed=[", "not valid YAML"),
        ("revise.rouds=1", "did you mean `rounds`?"),
    ],
)
def test_a_bad_override_says_what_is_wrong_with_it(tmp_path, override, says):
    with pytest.raises(ConfigError, match="--set") as caught:
        load_config(write(tmp_path), overrides=[override])
    assert says in str(caught.value)


def test_a_section_with_all_keys_commented_out_is_the_defaults(tmp_path):
    config = load_config(write(tmp_path, MINIMAL + "finetune:\n  # epochs: 2\n"))
    assert config.finetune.epochs == 3.0


def test_the_system_turn_of_all_prompts_stands_alone(tmp_path):
    path = write(tmp_path)
    config = load_config(path, overrides=["prompts.system=Be brief."])
    assert config.prompts.system == "Be brief."
    overrides = ["prompts.system=Be brief.", "revise.system=Be kind.", "evaluate.system=Be kind."]
    with pytest.raises(ConfigError, match=r"`revise.system`, `evaluate.system` would have no eff"):
        load_config(path, overrides=overrides)


def test_a_system_turn_whose_key_has_no_text_is_none(tmp_path):
    text = "constitution: c\nprompts:\n  train: a\n  heldout: b\n  system:\n"
    assert load_config(write(tmp_path, text)).prompts.system is None
