from charter.constitution import Constitution, Principle
from charter.learning.card import CardFacts, model_card


def card(**changes):
    facts = {
        "title": "starter, taught",
        "base_model": "starter",
        "method": "Fine-tuned.",
        "constitution": Constitution(
            name="support",
            version="2",
            principles=(Principle(id="ids", rule="Never ask for an SSN."),),
        ),
        "data": {"Demonstrations": "12"},
        "training": {"Steps": "3"},
        "results": {"Loss": "1.5"},
    }
    return model_card(CardFacts(**(facts | changes)))


def test_a_card_names_its_base_its_rules_and_its_figures():
    text = card()
    assert text.startswith('---\nbase_model: "starter"\n')
    for part in ("| Demonstrations | 12 |", "| Steps | 3 |", "| Loss | 1.5 |", "version 2"):
        assert part in text
    assert "- **ids**: Never ask for an SSN." in text
    assert "## Limits" in text


def test_a_value_is_never_markup():
    text = card(data={"Source": "a | b\n# <script>"}, base_model='x"\nlicense: mit')
    assert r"| Source | a \| b \# \<script\> |" in text
    assert 'base_model: "x\\"\\nlicense: mit"' in text
