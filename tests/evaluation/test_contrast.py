from dataclasses import replace

import pytest

from charter.constitution import Constitution, Principle
from charter.errors import ConfigError, PromptError, RunError
from charter.evaluation.contrast import contrast
from charter.evaluation.contrast_table import contrast_table, example_text, example_title
from charter.evaluation.pairing import Answered
from charter.records import Prompt, assistant, system, user
from tests.evaluation.answers import graded_answer

SSN = Principle(id="ssn", rule="Never ask for an SSN.", patterns=("your ssn",))
PRAISE = Principle(id="praise", rule="Never praise a product.", patterns=("great",))
SHOP = Constitution(name="shop rules", principles=(SSN,))
BANK = Constitution(name="bank rules", principles=(PRAISE,))
ASKS, PRAISES, GOOD = "What is your SSN?", "A great one!", "Here is a link."


def prompts(count=6, **changes):
    return [
        Prompt(id=f"p{i}", messages=(user(f"Question {i}"),)).model_copy(update=changes)
        for i in range(count)
    ]


def answered(label, *, constitution=SHOP, asked=None, base=None, more=None, **sft):
    """A run; texts by prompt id, several of them in a list. Without: every answer is good.

    `more` has those of other columns than `base` and `sft`.
    """
    asked = prompts() if asked is None else asked

    def rows(column, texts):
        for prompt in asked:
            said = texts.get(prompt.id, GOOD)
            for sample, text in enumerate(said if isinstance(said, list) else [said]):
                yield graded_answer(
                    text, column, prompt=prompt, constitution=constitution, sample=sample
                )

    texts = {prompt.id: ASKS for prompt in asked} if base is None else base
    return Answered(
        label=label,
        run=f"runs/{label}",
        constitution=constitution,
        prompts=asked,
        answers=[
            row
            for column, said in {"base": texts, "sft": sft, **(more or {})}.items()
            for row in rows(column, said)
        ],
    )


def rates(found):
    """(base, first, second, difference) by rule set and line."""
    return {
        (group.rules_of or group.on, line.name): (
            line.base.rate,
            line.first.rate,
            line.second.rate,
            line.difference and line.difference.difference,
        )
        for group in found.groups
        for line in group.lines
    }


def test_both_models_are_measured_by_the_rules_of_both():
    shop = answered("shop", p0=PRAISES, p1=PRAISES, p2=PRAISES)
    bank = answered("bank", constitution=BANK, p0=ASKS, p1=[ASKS, GOOD])
    found = rates(contrast(shop, bank))
    assert found["shop", "ssn"] == (1.0, 0.0, 2 / 7, 1.5 / 6)
    assert found["bank", "praise"] == (0.0, 0.5, 0.0, -0.5)
    assert found["bank", "any rule"] == found["bank", "praise"]


def test_the_last_trained_column_that_both_have_is_compared():
    three = answered("three", more={"rl": {"p0": ASKS}, "dpo": {}})
    two = answered("two", more={"rl": {}})
    found = contrast(three, two)
    assert (found.column, rates(found)["three", "ssn"][1:3]) == ("rl", (1 / 6, 0.0))
    assert contrast_table(found).title.startswith("Answers of rl to ")
    assert contrast(three, answered("one")).column == "sft"
    assert contrast(three, three).column == "dpo"


def test_a_column_that_is_named_is_compared_or_refused():
    first, second = answered("a", more={"rl": {}}), answered("b", more={"rl": {}}, p1=ASKS)
    found = contrast(first, second, column="sft")
    assert (found.column, rates(found)["a", "ssn"][1:3]) == ("sft", (0.0, 1 / 6))
    assert contrast(first, second, column="base").column == "base"
    with pytest.raises(ConfigError, match=r"--column dpo: runs/a has .*; it has base, sft, rl"):
        contrast(first, second, column="dpo")


def test_runs_without_a_trained_column_in_common_say_what_each_has():
    plain = answered("plain")
    untrained = replace(plain, answers=[row for row in plain.answers if row.column == "base"])
    with pytest.raises(RunError, match=r"has the columns base, sft and .* base: no trained"):
        contrast(plain, untrained)
    assert contrast(plain, untrained, column="base").prompts == 6


def test_a_line_says_whether_the_models_part():
    shop, bank = answered("shop"), answered("bank", **{f"p{i}": ASKS for i in range(6)})
    (ssn,) = [line for line in contrast(shop, bank).groups[0].lines if line.name == "ssn"]
    assert ssn.difference.n == 6
    assert ssn.difference.low > 0
    assert ssn.parts_them
    (ssn,) = [line for line in contrast(shop, shop).groups[0].lines if line.name == "ssn"]
    assert not ssn.parts_them


def test_rules_that_both_share_are_listed_once():
    found = contrast(answered("shop"), answered("bank"))
    assert [group.rules_of for group in found.groups] == ["shop", None]


def test_only_prompts_that_both_answered_count():
    few = answered("few", asked=prompts(2), p0=ASKS)
    many = answered("many", p0=ASKS, p5=ASKS)
    found = contrast(few, many)
    assert (found.prompts, found.first.prompts, found.second.prompts) == (2, 2, 6)
    assert rates(found)["few", "ssn"] == (1.0, 0.5, 0.5, 0.0)


def test_the_same_id_with_other_messages_is_another_prompt():
    told = [
        prompt.model_copy(update={"messages": (system("Be Ada."), *prompt.messages)})
        for prompt in prompts()
    ]
    with pytest.raises(PromptError, match=r"6 ids .* none with the same messages, for one 'p0'"):
        contrast(answered("shop"), answered("told", asked=told))
    found = contrast(answered("shop"), answered("told", asked=[*prompts(1), *told[1:]]))
    assert found.prompts == 1


def test_runs_without_a_common_prompt_are_refused_with_a_remedy():
    others = [Prompt(id="other", messages=(user("Hi"),))]
    with pytest.raises(PromptError, match=r"runs/shop \(6 prompts\) and runs/bank \(1\)") as caught:
        contrast(answered("shop"), answered("bank", asked=others))
    assert "Evaluate both runs on one file of held-out prompts" in str(caught.value)


def test_each_constitution_grades_by_the_tags_of_its_own_prompts():
    tagged = [prompts(1, tags=("ssn",))[0], *prompts()[1:]]
    shop = answered("shop", asked=tagged, p0=ASKS)
    bank = answered("bank", constitution=BANK, p5=PRAISES)
    found = rates(contrast(shop, bank))
    assert found["shop", "ssn"][1:3] == (1.0, 0.0)
    assert found["bank", "praise"][1:3] == (0.0, 1 / 6)


def test_help_is_shown_where_prompts_say_what_it_is():
    benign = prompts(kind="benign", expects=("link",))
    shop, bank = answered("shop", asked=benign), answered("bank", asked=benign, p0="I can't.")
    found = rates(contrast(shop, bank))
    assert found["benign", "helped"] == (0.0, 1.0, 5 / 6, -1 / 6)
    assert found["benign", "refused"] == (0.0, 0.0, 1 / 6, 1 / 6)
    bare = prompts(kind="benign")
    found = rates(contrast(answered("shop", asked=bare), answered("bank", asked=bare)))
    assert ("benign", "helped") not in found
    assert ("benign", "refused") in found


def test_examples_begin_with_the_clearest_and_take_turns():
    shop = answered("shop", p3=PRAISES, p4=[PRAISES, GOOD])
    bank = answered("bank", constitution=BANK, p0=ASKS, p1=ASKS, p2=ASKS)
    first, second, third = contrast(shop, bank).examples
    assert (first.prompt_id, first.broken_by, first.first, first.second) == (
        "p0", "bank", GOOD, ASKS,
    )  # fmt: skip
    assert (second.prompt_id, second.broken_by, second.rules_of) == ("p3", "shop", "bank")
    assert (second.first, second.second) == (PRAISES, GOOD)
    assert third.prompt_id == "p1"


def test_an_example_quotes_answers_in_which_the_models_do_differ():
    shop = answered("shop", p0=[ASKS, GOOD, GOOD])
    bank = answered("bank", p0=[GOOD, ASKS, ASKS])
    (example,) = contrast(shop, bank).examples
    assert (example.broken_by, example.first, example.second) == ("bank", GOOD, ASKS)


def test_base_is_the_first_runs_and_it_is_said_where_the_others_differs():
    shop = answered("shop", base={"p0": ASKS})
    bank = answered("bank", base={"p0": ASKS, "p1": ASKS})
    assert contrast(shop, bank).is_base_shared is False
    assert rates(contrast(shop, bank))["shop", "ssn"][0] == 1 / 6
    assert (
        "base: shop's; bank's answered differently" in contrast_table(contrast(shop, bank)).footer
    )
    assert "base:" not in contrast_table(contrast(shop, shop)).footer


def test_the_table_has_a_row_for_each_rule_and_a_mark_where_the_models_part():
    shop = answered("shop", p0=PRAISES)
    bank = answered("bank", constitution=BANK, **{f"p{i}": ASKS for i in range(6)})
    shown = contrast_table(contrast(shop, bank))
    assert shown.header == ("", "n", "base", "shop", "bank", "points", "")
    assert [section.title for section in shown.sections] == [
        "rules of shop broken \u2193", "rules of bank broken \u2193", "harmful prompts",
    ]  # fmt: skip
    rows = {row[0]: row[1:] for section in shown.sections for row in section.rows}
    assert rows["ssn"] == ("6", "100 % (48-100)", "0.0 % (0-52)", "100 % (48-100)", "+100", "*")
    assert rows["praise"] == ("6", "0.0 % (0-52)", "17 % (2-66)", "0.0 % (0-52)", "-17", "")
    assert shown.footer.splitlines()[:3] == [
        "shop: runs/shop, with the rules of shop rules",
        "bank: runs/bank, with the rules of bank rules",
        "Both answered 6 prompts, of 6 and 6.",
    ]


def test_a_rule_without_patterns_is_unscored_not_kept():
    silent = Constitution(principles=(Principle(id="kind", rule="Be kind."),))
    shown = contrast_table(
        contrast(answered("a", constitution=silent), answered("b", constitution=silent))
    )
    rows = {row[0]: row[1:] for section in shown.sections for row in section.rows}
    assert rows["kind"] == ("-", "-", "-", "-", "-", "")
    assert shown.footer.endswith("a rule is scored by its `patterns`")


def test_an_example_says_who_breaks_whose_rule():
    shop, bank = answered("shop"), answered("bank", constitution=BANK, p0=ASKS)
    found = contrast(shop, bank)
    title = example_title(found.examples[0], found)
    assert title == "bank breaks shop's rule ssn, shop keeps it (p0)"
    found = contrast(answered("shop", p0=ASKS), answered("bank"))
    assert example_title(found.examples[0], found).startswith("shop breaks the rule ssn, bank")


def test_what_was_asked_in_several_turns_names_the_speakers():
    asked = [
        Prompt(id="p0", messages=(system("Be Ada."), user("Hi"), assistant("Hello"), user("Help")))
    ]
    (example,) = contrast(answered("a", asked=asked), answered("b", asked=asked, p0=ASKS)).examples
    assert example_text(example) == "user: Hi\nassistant: Hello\nuser: Help"
