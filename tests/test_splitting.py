from charter.records import assistant, system, user
from charter.splitting import dialogue_text, validation_prompts


def test_what_was_said_does_not_include_the_system_turn():
    assert dialogue_text((system("Rules."), user("a"), assistant("b"))) == "a\nb"


def test_items_of_near_identical_prompts_stay_on_one_side():
    said = [
        ("a", "Where is my order, please?"),
        ("b", "where is my order please"),
        ("c", "I lost my password."),
        ("d", "Can you cancel it?"),
    ]
    items = [item for item in said for _ in range(3)]
    for seed in range(8):
        chosen = validation_prompts(items, share=0.5, near_duplicate=0.8, seed=seed)
        assert chosen
        assert ("a" in chosen) == ("b" in chosen)


def test_one_prompt_alone_cannot_be_split():
    assert (
        validation_prompts([("a", "x"), ("a", "x")], share=0.5, near_duplicate=1.0, seed=0) is None
    )
