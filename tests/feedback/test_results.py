import pytest

from charter.config import ReinforceConfig
from charter.constitution import Constitution
from charter.feedback.reinforce import Trail
from charter.feedback.results import reinforce_card, reinforce_result
from charter.learning.metrics import LookRow, StepRow

RULES = Constitution.model_validate(
    {"name": "shop", "principles": [{"id": "ssn", "rule": "Never ask for an SSN."}]}
)
LOOK = LookRow(
    step=0,
    reward=0.3,
    judge=0.5,
    judge_error=0.1,
    length_tokens=9.0,
    refusal_share=0.1,
    boilerplate_share=0.0,
)


def step(number, **measured):
    figures = dict.fromkeys(StepRow.model_fields.keys() - {"kind", "step"}, 0.0)
    return StepRow(**figures | {"step": number, "constraint": None} | measured)


def card(*rows, kept, **settings):
    """The card's results after a training of these steps."""
    section = ReinforceConfig(**settings)
    trail = Trail(
        rows=(LOOK, *rows),
        steps=len(rows),
        planned_steps=9,
        kept_step=kept,
        stopped=None,
    )
    result = reinforce_result(
        trail, prompts=8, watched=2, overlong=0, section=section, lr=1e-5, parameters=(9, 9)
    )
    return reinforce_card(result, source="tiny", section=section, constitution=RULES).results


@pytest.mark.parametrize(
    ("kept", "reached", "multiplier"),
    [
        (0, "0.100, so that the level 0.5 is not met", "0.3"),
        (1, "0.100, so that the level 0.5 is not met", "0.3"),
        (2, "0.500, so that the level 0.5 is met", "0.25"),
    ],
)
def test_a_card_says_whether_the_constraint_is_met_by_the_weights_kept(kept, reached, multiplier):
    rows = (step(1, constraint=0.1, multiplier=0.3), step(2, constraint=0.5, multiplier=0.25))
    found = card(*rows, kept=kept, constraint={"reward": "model", "level": 0.5})
    assert found["Reward of the constraint in the kept step"] == reached
    assert found["Multiplier of the constraint"] == multiplier


def test_a_card_without_a_constraint_says_nothing_of_one():
    assert not any("onstraint" in name for name in card(step(1), kept=1))
