import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from charter.config import CompareConfig, HumanPreferences
from charter.errors import RunError
from charter.feedback.preferences import (
    Makers,
    apart_from,
    each_once,
    human_row,
    in_shares,
    judged_row,
    read_preferences,
    revised_row,
)
from charter.prompts import AnswerPair
from charter.records import (
    Comparison,
    Preference,
    Prompt,
    Provenance,
    RevisionPair,
    assistant,
    system,
    user,
)
from charter.run import write_jsonl

MAKERS = Makers(seed=3, policy="sft", judge="base", constitution="c0ffee")
probability = st.floats(0.0, 1.0)


def preference(shown_first=0.2, shown_second=0.4, number=0):
    prompt = Prompt(id=f"p{number}", messages=(user("Log me in."),), tags=("login",))
    return Preference(
        comparison=Comparison(id=f"p{number}:0-1", prompt=prompt, first="SSN?", second="A link."),
        source="judge",
        principle_ids=("ssn",),
        p_first_shown_first=shown_first,
        p_first_shown_second=shown_second,
    )


def revision_pair(number=0):
    return RevisionPair(
        id=f"p{number}:2",
        prompt=(user(f"Log me in, {number}."),),
        chosen=(assistant("A link."),),
        rejected=(assistant("SSN?"),),
        provenance=Provenance(
            prompt_id=f"p{number}", kind="harmful", round=2, principle_ids=("ssn",), seed=3,
            model="base", constitution="c0ffee",
        ),
    )  # fmt: skip


def revised(number=0, system=None):
    return revised_row(revision_pair(number), p_chosen=0.9, tags=("login",), system=system)


def human(number=0, chosen="Hello."):
    pair = AnswerPair(
        prompt=Prompt(id=f"h{number}", messages=(user(f"Hi, {number}."),)),
        chosen=chosen,
        rejected="What?",
    )
    return human_row(pair, p_chosen=0.8, seed=3, system=None)


def test_chosen_is_what_the_judge_holds_better_with_its_probabilities():
    row = judged_row(preference(), makers=MAKERS, negative=False)
    assert (row.chosen[0].content, row.rejected[0].content) == ("A link.", "SSN?")
    assert row.p_chosen == pytest.approx(0.7)
    origin = row.provenance
    assert origin.p_chosen_shown_first == pytest.approx(0.6)
    assert origin.p_chosen_shown_second == pytest.approx(0.8)
    assert (origin.source, origin.principle_ids, origin.tags) == ("judge", ("ssn",), ("login",))
    assert (origin.policy, origin.judge) == ("sft", "base")


@given(probability, probability)
def test_a_row_and_that_of_the_swapped_comparison_say_the_same(first, second):
    row = judged_row(preference(first, second), makers=MAKERS, negative=False)
    swapped = judged_row(preference(first, second).swapped(), makers=MAKERS, negative=False)
    assert row.p_chosen == pytest.approx(swapped.p_chosen)
    if row.p_chosen > 0.5 + 1e-9:
        assert row.chosen == swapped.chosen
    orders = row.provenance.p_chosen_shown_first, row.provenance.p_chosen_shown_second
    assert row.p_chosen == pytest.approx(sum(orders) / 2)


def test_a_revision_is_preferred_as_surely_as_stated_and_no_judge_is_named():
    row = revised(system="You are Ada.")
    assert (row.id, row.p_chosen, row.provenance.source) == ("revision/p0:2", 0.9, "revision")
    assert row.prompt[0] == system("You are Ada.")
    assert (row.provenance.policy, row.provenance.judge) == ("base", "")
    assert row.provenance.p_chosen_shown_first is None


def test_peoples_preferences_are_named_by_what_they_say():
    assert human().id == human().id != human(chosen="Good day.").id
    assert (human().p_chosen, human().provenance.source) == (0.8, "human")
    assert len(each_once([human(), human(), human(chosen="Good day.")])) == 2


def test_rows_near_a_heldout_prompt_are_left_out():
    heldout = [Prompt(id="x", messages=(system("You are Ada."), user("log me in 0")))]
    kept = apart_from(heldout, rows=[revised(0), human(1)], near_duplicate=0.9)
    assert [row.provenance.source for row in kept] == ["human"]


def test_other_sources_have_no_more_than_their_share_and_keep_their_order():
    section = CompareConfig(
        revised_share=0.2, human=HumanPreferences(path="people.jsonl", share=0.3)
    )
    extra = {
        "revision": [revised(number) for number in range(90)],
        "human": [human(number) for number in range(90)],
    }
    taken = in_shares(50, extra, section=section, seed=0)
    assert (len(taken["revision"]), len(taken["human"])) == (20, 30)
    ids = [row.id for row in extra["human"]]
    places = [ids.index(row.id) for row in taken["human"]]
    assert places == sorted(places)
    backwards = {name: rows[::-1] for name, rows in extra.items()}
    again = in_shares(50, backwards, section=section, seed=0)
    assert {row.id for row in again["human"]} == {row.id for row in taken["human"]}


def test_without_a_share_of_revisions_none_is_taken():
    section = CompareConfig(revised_share=0.0)
    assert in_shares(5, {"revision": [revised()]}, section=section, seed=0) == {"revision": []}


def test_preferences_round_trip_through_jsonl(tmp_path):
    rows = [judged_row(preference(), makers=MAKERS, negative=False), revised(), human()]
    write_jsonl(tmp_path / "preferences.jsonl", rows)
    assert list(read_preferences(tmp_path / "preferences.jsonl")) == rows


def test_a_label_below_a_half_is_no_preference(tmp_path):
    path = tmp_path / "preferences.jsonl"
    row = revised().model_dump(mode="json")
    path.write_text(json.dumps(row | {"p_chosen": 0.4}) + "\n")
    with pytest.raises(RunError, match=r"jsonl:1: not a preference: .* Run `charter compare`"):
        list(read_preferences(path))
    with pytest.raises(ValidationError):
        type(revised()).model_validate(row | {"p_chosen": 0.4})


def test_missing_preferences_say_which_stage_writes_them(tmp_path):
    with pytest.raises(RunError, match="Run `charter compare` first"):
        list(read_preferences(tmp_path / "none.jsonl"))


def test_trl_loads_the_file_as_it_is(tmp_path):
    datasets = pytest.importorskip("datasets")
    data_utils = pytest.importorskip("trl.data_utils")
    path = tmp_path / "preferences.jsonl"
    write_jsonl(path, [judged_row(preference(), makers=MAKERS, negative=False), revised(), human()])
    loaded = datasets.load_dataset(
        "json", data_files=str(path), split="train", cache_dir=str(tmp_path / "cache")
    )
    assert all(data_utils.is_conversational(row) for row in loaded)
    assert loaded["p_chosen"][0] == pytest.approx(0.7)
    extracted = data_utils.maybe_extract_prompt(loaded[0])
    assert extracted["prompt"] == [{"role": "user", "content": "Log me in."}]
    assert extracted["chosen"] == [{"role": "assistant", "content": "A link."}]


def test_trl_renders_the_rows_by_a_models_template(tmp_path, tiny_model):
    data_utils = pytest.importorskip("trl.data_utils")
    from transformers import AutoTokenizer

    row = judged_row(preference(), makers=MAKERS, negative=False).model_dump(mode="json")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    rendered = data_utils.maybe_apply_chat_template(row, tokenizer)
    assert rendered["prompt"] == "<|user|>Log me in.<|end|><|assistant|>"
    assert rendered["chosen"] == "A link.<|end|>"
