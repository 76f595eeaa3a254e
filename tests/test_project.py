import json
import subprocess
import sys

import pytest

from charter.config import Config, ModelsConfig, ModelSource
from charter.errors import ConfigError
from charter.project import check_project, init_project

CONSTITUTION = """
principles:
  - id: ssn
    rule: Never ask for an SSN.
    tests: [{prompt: Verify me., breaks: What is your SSN?, keeps: I can email a link.}]
  - {id: kind, rule: Be kind.}
"""

JUDGED = (
    "learn=[sft, rl]",
    "reinforce.steps=3",
    "reinforce.prompts_per_step=4",
    "reinforce.group=2",
    "reinforce.monitor_every=2",
)


@pytest.fixture
def config(tmp_path):
    """A project with 5 prompts to train on and 3 held out."""
    (tmp_path / "constitution.yaml").write_text(CONSTITUTION)
    for name, count in (("train", 5), ("heldout", 3)):
        rows = [json.dumps({"prompt": f"What about {name} {i}?"}) for i in range(count)]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(rows))
    path = tmp_path / "charter.yaml"
    path.write_text(
        "constitution: constitution.yaml\n"
        "prompts: {train: train.jsonl, heldout: heldout.jsonl}\n"
        "revise: {rounds: 2}\n"
        "evaluate: {samples: 4, judged_samples: 1}\n"
    )
    return path


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        # Revise: 5 x (1 + 2 x 2); 5 x 2 x 2 + 2 to fit. Evaluate: 12 x (4 + 2 x 2);
        # 12 x 2 x 2 screened, 3 x 4 x (2 + 1) judged, 2 to fit.
        ([], "25 texts and 22 yes-or-no questions to revise, 96 texts and 86 yes-or-no"),
        (["revise.critique=false"], "15 texts and 22 yes-or-no questions to revise, 72 texts"),
        (
            ["revise.selection=random"],
            "25 texts and 0 yes-or-no questions to revise, 96 texts and 38 yes-or-no",
        ),
        (["revise.threshold=0.5"], "25 texts and 20 yes-or-no questions to revise"),
        (
            ["evaluate.columns=[base, sft]", "evaluate.judged_samples=0"],
            "to revise, 24 texts and 0 yes-or-no",
        ),
        # Compare: 5 x 2 responses; (10 + 2 x 1) x 2 screened, (5 + 1) x 2 x (2 + 1) weighed, 2 to
        # fit. Reinforce: 200 x 5 x 8 rollouts and 2 x (1 + 20) for looks; 2 x 21 x 2 screened,
        # 2 x 20 x 2 x (2 + 1) weighed.
        (
            ["learn=[sft, rl]"],
            "to revise, 10 texts and 62 questions to compare, 8,042 texts and 324 questions to "
            "reinforce, 108 texts",
        ),
        # 3 x 4 x 2 rollouts, 2 looks; (24 + 6) x 2 screened, (24 + 4) x 2 x (2 + 1) weighed.
        ([*JUDGED, "reinforce.reward=judge"], "30 texts and 228 questions to reinforce"),
        # 30 + 28 x 2 x (2 + 1) x 2.
        (
            [*JUDGED, "reinforce.reward=judge", "compare.votes=2"],
            "366 texts and 60 questions to reinforce",
        ),
        (
            ["learn=[sft, rl]", "compare.prompts=3", "reinforce.monitor_prompts=1"],
            "6 texts and 42 questions to compare, 8,021 texts and 162 questions to reinforce",
        ),
        (
            ["learn=[sft, dpo]", "compare.responses=3", "compare.votes=5"],
            "495 texts and 36 questions to compare",
        ),
        (
            ["learn=[sft, rl]", "compare.chain_of_thought=true", "compare.principles=1"],
            "34 texts and 50 questions to compare",
        ),
        (["evaluate.judged_samples=9"], "96 texts and 194 yes-or-no questions to evaluate"),
    ],
)
def test_the_cost_counts_every_call_that_a_run_may_make(config, overrides, cost):
    lines = check_project(config, overrides=overrides).lines()
    assert any(line.startswith("cost: at most ") and cost in line for line in lines), lines


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        # 2 of 4 prompts are benign. 4 x 2 responses; (4 + 2 + 1) x 2 x (2 + 1) weighed,
        # (8 + 2 + 2) x 2 screened, 2 to fit.
        (["compare.negatives=1.0"], "8 texts and 68 questions to compare"),
        (["compare.negatives=1.0", "compare.prompts=1"], "2 texts and 30 questions to compare"),
        (["compare.negatives=0.0"], "8 texts and 52 questions to compare"),
    ],
)
def test_the_cost_counts_the_responses_that_are_compared_with_a_harmful_one(
    config, overrides, cost
):
    rows = [{"prompt": f"Is {n} much?", "kind": ("harmful", "benign")[n % 2]} for n in range(4)]
    path = config.parent / "rl.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    settings = ["learn=[sft, dpo]", f"prompts.rl={path}", *overrides]
    (line,) = [
        line
        for line in check_project(config, overrides=settings).lines()
        if line.startswith("cost: ")
    ]
    assert cost in line


def test_a_mix_that_the_prompts_cannot_be_brought_to_is_a_mistake(config):
    mix = "compare.mix={harmful: 0.4, benign: 0.4, borderline: 0.2}"
    (problem,) = check_project(config, overrides=["learn=[sft, dpo]", mix]).problems
    assert "compare.mix is" in problem
    assert "Add prompts of the other kinds" in problem
    assert not check_project(config, overrides=[mix]).problems  # nothing is compared
    enough = "compare.mix={benign: 0.5}"
    assert not check_project(config, overrides=["learn=[sft, dpo]", enough]).problems


@pytest.mark.parametrize(
    ("source", "says"),
    [
        ("python:no_such_module:nope", "No module named 'no_such_module'. Write `python:MODULE"),
        ("python:math:nope", "has no attribute 'nope'"),
        ("python:math", "has no attribute ''"),
        ("python::fsum", "Empty module name"),
        ("python:.math:fsum", "Write `python:MODULE:FUNCTION`"),
        ("python:math:pi", "`pi` is no function but float"),
        ("no/such/dir", "no such directory. Name `model`, `judge`"),
        ("jugde", "no such directory. Name `model`, `judge`"),
    ],
)
@pytest.mark.parametrize(
    "setting", ["reinforce.reward={}", "reinforce.constraint={{reward: '{}', level: 0.0}}"]
)
def test_a_reward_that_is_not_there_is_a_mistake(config, setting, source, says):
    overrides = [setting.format(source)]
    (problem,) = check_project(config, overrides=["learn=[sft, rl]", *overrides]).problems
    name = overrides[0].partition("=")[0] + (".reward" if "constraint" in setting else "")
    assert problem.startswith(f"{name}: ")
    assert says in problem
    assert not check_project(config, overrides=overrides).problems  # RL alone is rewarded


def test_rewards_that_are_there_are_no_mistake(config, tmp_path):
    for source in ("model", "judge", "python:math:fsum", str(tmp_path)):
        overrides = ["learn=[sft, rl]", f"reinforce.reward={source}"]
        assert not check_project(config, overrides=overrides).problems


def test_a_reward_model_that_begins_at_no_directory_is_a_mistake(config):
    (problem,) = check_project(config, overrides=["reward.base=./nowhere"]).problems
    assert problem.startswith("reward.base: /")
    assert "no such file or directory" in problem


def test_checking_does_not_wait_for_torch(config):
    code = (
        "import sys; from pathlib import Path; from charter.project import check_project; "
        "settings = ['learn=[sft, rl]', 'reinforce.reward=python:math:fsum']; "
        f"check_project(Path({str(config)!r}), overrides=settings).lines(); "
        "sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_prompts_for_rl_and_peoples_preferences_are_checked_too(config):
    rows = config.parent / "rl.jsonl"
    rows.write_text('{"prompt": "Hi"}\nnot json\n')
    people = config.parent / "people.jsonl"
    people.write_text('{"chosen": "\\n\\nHuman: Hi\\n\\nAssistant: Hello."}\n')
    found = check_project(
        config, overrides=[f"prompts.rl={rows}", f"compare.human={{path: {people}}}"]
    )
    assert found.prompts["rl"].valid == 1
    assert [problem.partition("rl.jsonl")[2] for problem in found.problems[:1]] == [
        ":2: not JSON: Expecting value (column 1)"
    ]
    assert "people.jsonl: no usable pair of answers (1 rows quarantined)" in found.problems[1]
    assert "people.jsonl:1: no `rejected`" in found.problems[2]
    missing = check_project(config, overrides=["compare.human={path: /no/such.jsonl}"])
    assert (
        "/no/such.jsonl: no such file. Correct the path under `compare.human`"
        in (missing.problems[0])
    )


@pytest.mark.parametrize(
    ("overrides", "cost"),
    [
        # 3 prompts x 1 pair x 2 orders x (2 principles + help).
        ([], "to evaluate, 18 choices between answers"),
        (["learn=[sft, rl]", "evaluate.judged_samples=2"], "108 choices between answers"),
        (["compare.principles=1", "compare.votes=5"], "60 choices between answers"),
        (["compare.chain_of_thought=true"], "36 choices between answers"),
        (["evaluate.head_to_head=0.0"], "to evaluate"),
        (["evaluate.columns=[base, base+rules]"], "to evaluate"),
    ],
)
def test_the_cost_counts_the_comparisons_of_answers(config, overrides, cost):
    lines = check_project(config, overrides=overrides).lines()
    assert [line for line in lines if line.startswith("cost: ") and line.endswith(cost)]


def test_the_judge_asks_about_the_principles_that_are_graded(config):
    graded = config.parent / "graded.yaml"
    graded.write_text("- Be kind.\n- Be brief.\n- Be honest.\n")
    (cost,) = [
        line
        for line in check_project(config, overrides=[f"evaluate.constitution={graded}"]).lines()
        if line.startswith("cost: ")
    ]
    assert "96 texts and 96 yes-or-no questions to evaluate" in cost


def test_a_new_project_holds_other_rules_and_more_prompts_that_check_out_too(tmp_path):
    init_project(tmp_path)
    train = f"[{tmp_path}/prompts/train.jsonl, {tmp_path}/prompts/rl.jsonl]"
    overrides = [f"evaluate.constitution={tmp_path}/bank.yaml", f"prompts.train={train}"]
    plain = check_project(tmp_path / "charter.yaml")
    other = check_project(tmp_path / "charter.yaml", overrides=overrides)
    assert plain.problems == other.problems == []
    assert other.graded.name != plain.constitution.name
    more = len((tmp_path / "prompts" / "rl.jsonl").read_text(encoding="utf-8").splitlines())
    assert other.prompts["train"].valid == plain.prompts["train"].valid + more
    assert other.prompts["train"].duplicates == 0


def test_a_new_project_has_no_file_that_its_configuration_does_not_mention(tmp_path):
    written = {path.relative_to(tmp_path) for path in init_project(tmp_path)}
    text = (tmp_path / "charter.yaml").read_text()
    assert [
        str(one) for one in written if str(one) not in text and one.name != "charter.yaml"
    ] == []


@pytest.mark.parametrize("model", ["org/name", "a: #folder"])
def test_a_project_on_another_model_has_none_of_the_starters_settings(tmp_path, monkeypatch, model):
    monkeypatch.chdir(tmp_path)
    if model != "org/name":
        (tmp_path / model).mkdir()
    init_project(tmp_path / "mine", model=model)
    found = check_project(tmp_path / "mine" / "charter.yaml")
    assert found.problems == []
    config = found.config
    policy = model if model == "org/name" else str(tmp_path / model)
    assert config.models == ModelsConfig(policy=ModelSource(source=policy))
    plain = Config(constitution=config.constitution, prompts=config.prompts)
    changed = {
        name for name in Config.model_fields if getattr(plain, name) != getattr(config, name)
    }
    assert changed == {"models", "learn"}


def test_what_a_project_on_another_model_says_of_its_files_is_true(tmp_path):
    written = {path.name for path in init_project(tmp_path, model="org/name")}
    text = (tmp_path / "charter.yaml").read_text()
    assert "examples of the" in text
    assert not any(word in text for word in ("bank", "starter"))
    assert "bank.yaml" not in written


def test_a_model_that_is_no_directory_is_refused_before_anything_is_written(tmp_path):
    for model in (f"{tmp_path}/nothing", "./nothing", "https://host/v1"):
        with pytest.raises(ConfigError, match="no such directory"):
            init_project(tmp_path / "mine", model=model)
    assert not (tmp_path / "mine").exists()
