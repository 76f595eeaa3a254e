"""How preferences are divided: no prompt is on both sides."""

from charter.config import RewardConfig
from charter.feedback.pairs import split_pairs
from charter.records import user
from tests.feedback.learners import preference

COUNT = 20


def numbered(*, first):
    """Preferences on the same prompts, which are numbered from another one on."""
    pairs = []
    for number in range(COUNT):
        asked = f"may i have {(number + first) % COUNT}"
        pair = preference(100 * first + number, prompt=(user(asked),))
        provenance = pair.provenance.model_copy(update={"prompt_id": f"prompt-{number}"})
        pairs.append(pair.model_copy(update={"provenance": provenance}))
    return pairs


def test_prompts_of_two_files_that_share_their_ids_stay_on_one_side():
    parts = split_pairs(
        [*numbered(first=0), *numbered(first=1)],
        section=RewardConfig(validation_share=0.2, near_duplicate=1.0),
        stage="reward",
        heldout=(),
        seed=0,
    )
    trained = {pair.prompt for pair in parts.train}
    validated = {pair.prompt for pair in parts.validation}
    assert len(validated) == COUNT * 0.2
    assert not trained & validated
