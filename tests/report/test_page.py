import html
import json
import re
import shutil

import pytest

from charter.evaluation.table import table
from charter.report import build_page, read_run, render
from tests.report.conftest import COURSE, write

SECTIONS = ["outcome", "answers", "finetuning", "judge", "reward", "reinforcement", "accounts"]


def page(run):
    return build_page(read_run(run))


def text(run):
    """What a reader reads: the page without markup."""
    body = render(page(run)).partition("<body>")[2]
    return " ".join(html.unescape(re.sub(r"<[^>]*>", " ", body)).split())


def anchors(run):
    return [section.anchor for section in page(run).sections]


def edit(path, *keys, to):
    """Sets one value in a JSON file."""
    data = json.loads(path.read_text())
    inner = data
    for key in keys[:-1]:
        inner = inner[key]
    inner[keys[-1]] = to
    path.write_text(json.dumps(data))


def test_a_whole_run_has_every_section(run):
    assert anchors(run) == [*SECTIONS, "reproduction"]


def test_the_verdict_stands_at_the_top(run):
    assert (
        page(run)
        .top[0]
        .text.startswith("rl breaks a rule in 28.6 % of its answers to harmful prompts, ")
    )


@pytest.mark.parametrize(
    ("lost", "section"),
    [
        ("evaluation.json", "outcome"),
        ("data/answers.jsonl", "answers"),
        ("metrics/finetune.jsonl", "finetuning"),
        ("metrics/compare.json", "judge"),
        ("metrics/reward.json", "reward"),
        ("metrics/reinforce.jsonl", "reinforcement"),
        ("constitution.yaml", "answers"),
        ("config.yaml", None),
        ("data/heldout.jsonl", None),
        ("models", None),
    ],
)
def test_what_is_not_there_is_left_out(run, lost, section):
    path = run / lost
    shutil.rmtree(path) if path.is_dir() else path.unlink()
    assert anchors(run) == [name for name in [*SECTIONS, "reproduction"] if name != section]
    assert text(run)


def test_a_run_that_has_only_begun_has_a_page(run):
    for path in run.iterdir():
        if path.name != "manifest.json":
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    edit(run / "manifest.json", "stages", to={})
    assert anchors(run) == ["reproduction"]
    assert "Nothing is finished yet" in text(run)


@pytest.mark.parametrize(
    ("file", "keys", "value", "shown"),
    [
        ("evaluation.json", ("models", "rl", "harmful", "violation", "rate"), 0.0213, "2.1 %"),
        ("evaluation.json", ("models", "base", "benign", "tokens", "mean"), 1777.0, "1777"),
        ("evaluation.json", ("models", "sft", "principles", "ssn", "violation", "rate"),
         0.333, "33 %"),
        ("evaluation.json", ("comparisons", 0, "win_rate"), 0.6789, "68 % (60-80)"),
        ("manifest.json", ("stages", "revise", "tokens"), 987654, "987,654"),
        ("manifest.json", ("seed",), 4711, "4711"),
        ("manifest.json", ("hashes", "constitution"), "feedfacefeedface", "feedfacefeedface"),
        ("manifest.json", ("versions", "torch"), "9.8.7", "9.8.7"),
        ("metrics/compare.json", ("audit", "accuracy", "rate"), 0.734, "73 % (90-98) of 224"),
        ("metrics/compare.json", ("audit", "calibration_error"), 0.0777, "7.8 %"),
        ("metrics/compare.json", ("labels", "consistency", "position_bias"), 0.0654, "6.5 %"),
        ("metrics/compare.json", ("labels", "by_kind", "harmful", "identical"), 87, "87 of 960"),
        ("metrics/reward.json", ("accuracy", "rate"), 0.777, "78 % (87-95) of 240"),
        ("metrics/reward.json", ("auc",), 0.8125, "0.812"),
        ("metrics/reward.json", ("by_principle", "ssn", "accuracy"), 0.766, "77 %"),
        ("models/sft/training.json", ("best_step",), 17, "kept: step 17"),
        ("models/sft/training.json", ("validation_loss",), 0.0987, "0.151 → 0.099"),
        ("models/rl/training.json", ("kept_step",), 33, "kept at 33"),
        ("models/rl/training.json", ("steps",), 99, "99 of 200 planned steps"),
        ("models/rl/training.json", ("stopped",), "it went astray", "it went astray"),
    ],
)  # fmt: skip
def test_a_figure_of_the_page_is_the_one_in_the_file(run, file, keys, value, shown):
    assert shown not in text(run)
    edit(run / file, *keys, to=value)
    assert shown in text(run)


def judge_facts(run):
    """What is said of the judge, by the titles of its groups."""
    (section,) = [each for each in page(run).sections if each.anchor == "judge"]
    groups = [group for block in section.blocks if block.form == "panel" for group in block.facts]
    return {group.title: {fact.name: fact.value for fact in group.facts} for group in groups}


def test_a_judge_that_refuses_is_not_shown_as_one_that_was_asked_less(run):
    edit(run / "metrics" / "compare.json", "audit", "accuracy", "n", to=13)
    assert "no usable verdict" not in judge_facts(run)["On the rules' own tests"]
    edit(run / "metrics" / "compare.json", "audit", "unusable",
         to={"JudgementError": 4, "OverlongError": 1})  # fmt: skip
    found = judge_facts(run)["On the rules' own tests"]["no usable verdict"]
    assert found == "5 of 18: unreadable 4, too long 1"


def test_comparisons_and_votes_that_gave_no_label_are_counted(run):
    votes = ("labels", "unusable_votes")
    edit(run / "metrics" / "compare.json", *votes, to={"no_vote": 0, "else": 0})
    found = judge_facts(run)["On the labels for training"]
    assert found["no usable verdict"] == "3 of 814: unreadable 3"
    assert "votes that could not be counted" not in found
    edit(run / "metrics" / "compare.json", *votes, to={"vote_cut_off": 1207, "else": 2})
    found = judge_facts(run)["On the labels for training"]
    assert found["votes that could not be counted"] == "cut off 1,207, else 2"


def test_position_bias_is_shown_with_toss_ups_and_without(run):
    measured = {"n": 200, "position_bias": 0.34, "toss_ups": 0.6, "firm_position_bias": 0.05}
    edit(run / "metrics" / "compare.json", "labels", "consistency", to=measured)
    found = judge_facts(run)["On the labels for training"]
    assert found["decided by position"] == "34 % of 200"
    assert found["toss-ups: less than 60 % sure"] == "60 % of 200"
    assert found["decided by position, toss-ups aside"] == "5.0 % of 80"


def test_where_all_labels_are_toss_ups_there_is_no_bias_without_them(run):
    measured = {"n": 200, "position_bias": 0.34, "toss_ups": 1.0, "firm_position_bias": None}
    edit(run / "metrics" / "compare.json", "labels", "consistency", to=measured)
    found = judge_facts(run)["On the labels for training"]
    assert found["toss-ups: less than 60 % sure"] == "100 % of 200"
    assert "decided by position, toss-ups aside" not in found


def test_the_same_files_give_the_same_page(run):
    assert render(page(run)) == render(page(run))


def test_figures_are_written_as_in_the_terminal(run):
    shown = text(run)
    for section in table(read_run(run).evaluation).sections:
        for _, *cells in section.rows:
            assert all(cell in shown for cell in cells if cell != "-")


def test_the_accounts_balance_as_they_do_in_the_manifest(run):
    assert "revise 1,090 1,080 3 7 5,210 412,031 94 overlong 7, BackendError 3" in re.sub(
        r"(in|done|failed|filtered|calls|tokens|seconds|why) (?=\S)", "", text(run)
    )


def test_the_constitution_is_there_in_full(run):
    assert (run / "constitution.yaml").read_text().split() == (
        re.search(r"<summary>constitution.yaml</summary><pre[^>]*>(.*?)</pre>",
                  html.unescape(render(page(run))), re.DOTALL)[1].split()
    )  # fmt: skip


def test_settings_that_are_not_the_defaults_are_listed(run):
    assert "finetune.epochs value 2.5" in text(run)
    assert "finetune.patience" not in text(run).partition("config.yaml")[0]


def test_a_stop_is_said_and_marked(run):
    shown = text(run)
    assert "Stopped early: the score fell" in shown
    assert "stopped at 140" in shown


def lead(run, anchor):
    (section,) = [each for each in page(run).sections if each.anchor == anchor]
    return section.lead


@pytest.mark.parametrize("anchor", ["reward", "dpo"])
@pytest.mark.parametrize(
    ("sources", "named"),
    [
        ({"judge": 9, "revision": 0}, "the judge's preferences"),
        ({"judge": 9, "negative": 2}, "the judge's preferences"),
        ({"judge": 0, "human": 9}, "people's preferences"),
        ({"judge": 9, "human": 9}, "the judge's preferences and people's preferences"),
        ({"judge": 9, "revision": 2, "human": 9},
         "the judge's preferences, people's preferences and revisions preferred to what they "
         "revise"),
        ({"judge": 9, "misplaced": 2},
         "the judge's preferences and revisions preferred to those of other prompts"),
        ({}, "preferences"),
    ],
)  # fmt: skip
def test_what_is_trained_on_preferences_is_introduced_by_whose_they_are(
    run, anchor, sources, named
):
    shutil.copy(run / "metrics" / "reward.json", run / "metrics" / "dpo.json")
    edit(run / "metrics" / "compare.json", "preferences", to=sources)
    assert re.match(rf"Trained on {re.escape(named)}(\.|, without)", lead(run, anchor))


def test_a_reward_model_of_people_s_preferences_alone_needs_no_judge(run):
    (run / "metrics" / "compare.json").unlink()
    edit(run / "metrics" / "reward.json", "by_source", to={"human": {"accuracy": 0.7, "n": 60}})
    assert lead(run, "reward").startswith("Trained on people's preferences. ")
    assert "judge" not in lead(run, "reward")


def charts_of(run, anchor):
    """The charts of a section, by title."""
    (section,) = [each for each in page(run).sections if each.anchor == anchor]
    panels = [block for block in section.blocks if block.form == "panel"]
    return {chart.title: chart for panel in panels for chart in panel.charts}


def test_a_constraint_of_rl_is_drawn_with_its_level_and_its_weight(run):
    assert (
        not {"The constraint", "The constraint's weight"} & charts_of(run, "reinforcement").keys()
    )
    path = run / "metrics" / "reinforce.jsonl"
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    bounded = [
        {**row, "constraint": -0.2, "multiplier": 0.1} if row["kind"] == "step" else row
        for row in rows
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in bounded))
    with (run / "config.yaml").open("a") as file:
        file.write("reinforce: {constraint: {reward: model, level: 0.625}}\n")
    found = charts_of(run, "reinforcement")
    assert "level 0.625" in found["The constraint"].picture
    assert found["The constraint"].caption.startswith("The second reward, model, ")
    assert "The constraint's weight" in found


def test_a_constraint_is_drawn_where_its_level_is_not_known(run):
    rows = [{**row, "constraint": 0.2} for row in COURSE if row["kind"] == "step"]
    write(run / "metrics" / "reinforce.jsonl", *rows)
    (run / "config.yaml").unlink()
    assert "level" not in charts_of(run, "reinforcement")["The constraint"].picture
