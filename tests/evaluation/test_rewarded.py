from charter.constitution import Constitution, Principle
from charter.evaluation.rewarded import reward_figures
from charter.records import Prompt, user
from tests.evaluation.answers import graded_answer

RULES = Constitution(
    principles=(Principle(id="ssn", rule="Never ask for an SSN.", patterns=("your SSN",)),)
)
LOGIN = Prompt(id="login", messages=(user("Verify me"),))
ORDER = Prompt(id="order", messages=(user("Where is it?"),), kind="benign", expects=("on its way",))
BROKEN, KEPT, ARRIVING, UNHELPFUL = (
    "What is your SSN?",
    "I email a link.",
    "It is on its way.",
    "Hm.",
)


def said(text, column, *, prompt=LOGIN, sample=0):
    return graded_answer(text, column, prompt=prompt, constitution=RULES, sample=sample)


def figures(answers, score, fits=lambda *_: True):
    dialogues = {prompt.id: prompt.messages for prompt in (LOGIN, ORDER)}
    return reward_figures(answers, dialogues=dialogues, score=score, fits=fits)


def by_text(rewards):
    return lambda asked: [[rewards[each.text] for each in said] for _, said in asked]


def test_the_better_answer_is_either_columns():
    answers = [
        said(BROKEN, "base"), said(KEPT, "sft"), said(KEPT, "base", sample=1),
        said(BROKEN, "sft", sample=1), said(UNHELPFUL, "base", prompt=ORDER),
        said(ARRIVING, "sft", prompt=ORDER),
    ]  # fmt: skip
    found = figures(answers, by_text({KEPT: 1.0, BROKEN: -1.0, ARRIVING: 0.0, UNHELPFUL: 2.0}))
    assert (found.violation.rate, found.violation.n) == (1.0, 2)
    assert (found.helpful.rate, found.helpful.n) == (0.0, 1)


def test_what_the_reward_model_cannot_read_is_counted():
    answers = [said(BROKEN, "base"), said(KEPT, "sft")]
    found = figures(answers, by_text({}), fits=lambda *_: False)
    assert (found.violation.n, found.overlong) == (0, 1)


def test_the_reward_model_is_told_which_answers_were_cut_off():
    cut = said(KEPT, "sft").model_copy(update={"finish": "length"})
    read = []

    def score(asked):
        read.extend(answers for _, answers in asked)
        return [[1.0, 0.0] for _ in asked]

    figures([said(BROKEN, "base"), cut], score)
    ((kept, broken),) = read
    assert (kept.text, kept.finish, broken.finish) == (KEPT, "length", "stop")


def test_equal_rewards_are_wrong():
    found = figures([said(BROKEN, "base"), said(KEPT, "sft")], by_text({KEPT: 0.0, BROKEN: 0.0}))
    assert (found.violation.rate, found.violation.n) == (0.0, 1)


def test_answers_that_patterns_do_not_tell_apart_are_left_out():
    answers = [
        said(KEPT, "base"), said(KEPT + "!", "sft"), said(BROKEN, "base", sample=1),
        said(KEPT, "rl", sample=1),
    ]  # fmt: skip
    found = figures(answers, by_text({}))
    assert (found.violation.rate, found.violation.n, found.helpful.n) == (None, 0, 0)
