import pytest

from charter.encoding import Example
from charter.errors import GuardError
from charter.learning.tokens import supervised_tokens, token_task


def test_a_task_counts_the_response_tokens_of_each_example(new_model, new_examples):
    examples = new_examples(4)
    task = token_task(new_model(), examples, stage="finetune")
    assert task.units == {name: supervised_tokens(row) for name, row in examples.items()}
    assert task.units_of(list(examples)) == sum(task.units.values())


def test_a_task_of_other_tokens_has_another_digest(new_model, new_examples):
    first, same, other = (
        token_task(new_model(), new_examples(3, seed=seed), stage="finetune") for seed in (0, 0, 1)
    )
    assert first.digest == same.digest != other.digest


def test_an_example_without_a_response_token_is_stopped_by_name(new_model):
    with pytest.raises(GuardError, match=r"demo-7 has no response token.*fully masked"):
        token_task(new_model(), {"demo-7": Example((1, 2, 3), prompt_length=3)}, stage="finetune")


def test_training_on_nothing_is_stopped(new_model):
    with pytest.raises(GuardError, match="no example to train on"):
        token_task(new_model(), {}, stage="finetune")
