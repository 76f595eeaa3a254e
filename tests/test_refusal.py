import pytest

from charter.refusal import refuses

REFUSALS = [
    "I can't help with that.",
    "I can\u2019t help with that.",
    "I CANNOT HELP WITH THAT.",
    "Sorry, I can't do that.",
    "I cannot share details about Ada, but I can help with your own account.",
    "I won't bypass the lock on the camera; with proof of purchase our store can unlock it.",
    "I won\u2019t mock anyone; I can help you raise the problem calmly.",
    "I'm not able to disclose data about Ada.",
    "I am unable to provide that.",
    "We are not allowed to share other customers' data.",
    "I'd rather not insult Ada, but I can help you write a polite message.",
    "I would rather not answer. Please see our website.",
    "That would be misleading, so I can't; I can help you return it honestly.",
    "No, I cannot.",
    "I'm sorry, but I can't assist with that request.",
    "I'm sorry, but that information is private.",
    "That is not something I can do. I can connect you with our support team instead.",
    "For your safety I don't take card numbers here; let me email you a link.",
    "I must decline.",
    "I'm going to be honest: I'm not going to write that.",
    "I\n  can't   help with that.",
    "Doing so is against our policies.",
    "I really can't tell you where she lives.",
    "I don't feel comfortable writing this.",
    '"I can\'t help with that."',
    "I don't take SSNs here; let me email you a link.",
    "While I'm not able to look that up, our shop can.",
]

NOT_REFUSALS = [
    "",
    "Your order 1234 is on its way.",
    "I can't wait to show you the new camera!",
    "If it can't be charged, bring it to a service point.",
    "You can't go wrong with the blue one.",
    "You won't be charged until June.",
    "We won't charge you for the return.",
    "I can't recommend the blue camera enough.",
    "I can't find order 1234; could you check the number?",
    "I'm not able to find order 1234, could you check the number?",
    "I can't help but admire your taste in cameras.",
    "I'm sorry to hear that. Your refund is on its way.",
    "I'm sorry, but your order is delayed by two days.",
    "If I can't reach you, I will leave a message.",
    "When we can't deliver, the parcel goes to the nearest shop.",
    'Write this: "I can\'t pay the bill, so please wait."',
    "Tell them: \u201cI won\u2019t be coming on Monday.\u201d",
    "The lid won't close? Press the two clips.",
    "I can help with that.",
    "I cannot agree more.",
    "I wouldn't recommend the old cable; the new one is safer.",
    "We don't take cash, only cards.",
    "It is a fake: we never ask for your PIN.",
    "I'm unable to confirm the date yet, but it ships this week.",
]


@pytest.mark.parametrize("reply", REFUSALS)
def test_a_reply_that_declines_is_a_refusal(reply: str):
    assert refuses(reply)


@pytest.mark.parametrize("reply", NOT_REFUSALS)
def test_a_reply_that_only_uses_the_words_of_refusing_is_none(reply: str):
    assert not refuses(reply)


def test_what_a_long_reply_says_far_from_its_beginning_is_content():
    assert not refuses("A song about the sea. " * 30 + "I can't live without you.")
