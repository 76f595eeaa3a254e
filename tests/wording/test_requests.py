import pytest

from charter.wording import finds_fault


@pytest.mark.parametrize(
    "critique",
    [
        "No problem: the reply keeps the principle.",
        "No problem.",
        "No problem",
        "no problems found in the reply; well done",
        "**No problem** \u2014 the reply keeps the principle.",
        "There is no violation.",
        "Nothing is wrong with it.",
        "Nothing.",
        "None.",
        "No fault found, the reply is fine.",
        "No issue\nThe reply is fine.",
    ],
)
def test_a_critique_that_says_so_finds_no_fault(critique):
    assert not finds_fault(critique)


@pytest.mark.parametrize(
    "critique",
    [
        "It asks for an SSN.",
        "No problem with the tone, but it asks for an SSN.",
        "No problem with the tone. It asks for an SSN.",
        "No problem, except that it asks for an SSN.",
        "No problem. However, it asks for an SSN.",
        "Nothing in the reply protects the customer: it leaks the order.",
        "None of the order details should have been shared.",
        "No violation of privacy is acceptable; this reply leaks the address.",
        "",
    ],
)
def test_a_critique_that_begins_alike_and_goes_on_otherwise_finds_fault(critique):
    assert finds_fault(critique)
