"""What may become a demonstration, and the reason for what may not.

A gate looks at one candidate and says whether it stops it. Small models fail in few ways: they
write a critique where a revision was due, announce the revision, repeat themselves, or return
what they were to mend (Bai et al. 2022, sec. 3; later replications). Trained on, each of these
becomes a habit.
"""

from __future__ import annotations

import itertools
import re
import unicodedata
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass

from charter.config import GatesConfig
from charter.records import Finish, Kind
from charter.refusal import refuses
from charter.similarity import words

_LONGEST_RUN_OF_WORDS = 7
_LONGEST_RUN_OF_LETTERS = 15

_REVISED = r"(?:revised|rewritten|reworded|rephrased)"
_REPLY = r"(?:response|reply|answer)"
_EARLIER = r"(?:last|previous|prior|earlier|original|initial)"
_LEAKS = tuple(
    re.compile(pattern, re.IGNORECASE | re.MULTILINE)
    for pattern in (
        # The revision is announced: "Sure, here is a revised version:", "my rewritten reply".
        # "Here is a revised version of your letter" is an answer to someone who asked for one.
        rf"\b{_REVISED}\s+{_REPLY}\b",
        rf"\bhere(?:'s|\s+is)\s+(?:an?|the|my)\s+{_REVISED}\b(?!\s+\w+\s+of\s+(?:your|the)\b)",
        rf"\bhere(?:'s|\s+is)\s+(?:an?|the|my)\s+(?:improved|updated|better|safer)\s+{_REPLY}\b",
        rf"\bI(?:'ve|\s+have)\s+{_REVISED}\s+(?:my|the|this)\s+(?:\w+\s+)?{_REPLY}\b",
        rf"\bas\s+requested,?\s+I(?:'ve|\s+have)\s+{_REVISED}\b",
        # It speaks of a reply that the reader never saw.
        rf"\bapologi[sz]e\s+for\s+(?:my|the)\s+{_EARLIER}\s+(?:{_REPLY}|message|statement|tone)\b",
        rf"\bsorry\s+(?:for|about)\s+my\s+{_EARLIER}\b",
        rf"\bmy\s+{_EARLIER}\s+{_REPLY}\b",
        # A critique stands where the revision should.
        rf"\b(?:assistant|AI|model)'s\s+(?:{_EARLIER}\s+)?{_REPLY}\b",
        rf"\A\W*(?:the|this|your)\s+{_EARLIER}\s+{_REPLY}\s+(?:is|was|could|should|does|did)\b",
        rf"\b(?:this|that|the|your)\s+{_REPLY}\s+(?:breaks|violates|goes\s+against)\b",
        r"\b(?:break|violate|keep|follow)s?\s+(?:this|that|the)\s+principle\b(?!\s+(?:of|that)\b)",
        # The request is echoed, or its labels are.
        rf"\b(?:rewrite|critique|revise)\s+(?:your|the\s+assistant's)\s+(?:{_EARLIER}\s+)?"
        rf"{_REPLY}\b",
        r"^[ \t*_#>-]{0,16}(?:critique|revision)(?:\s?request)?[ *_]{0,4}:(?!\s*v?\d)",
    )
)
_SAYS_NO_FAULT = re.compile(r"\W*no\s+(?:problem|fault|issue|violation)s?\W*", re.IGNORECASE)

_CONTROL_TOKEN = re.compile(
    r"<\|[^|<>\n]{0,64}\|>"  # <|im_end|>, <|eot_id|>, <|endoftext|>
    r"|<\uff5c[^\uff5c<>\n]{0,64}\uff5c>"  # the same with full-width bars
    r"|</?s>|\[/?INST\]|<</?SYS>>|<(?:start|end)_of_turn>|<(?:bos|eos|pad|unk)>"
    r"|\[(?:BOS|EOS|PAD|UNK|CLS|SEP|MASK)\]"
)


@dataclass(frozen=True)
class Candidate:
    """A text that may become a demonstration's completion."""

    text: str
    finish: Finish
    mends: tuple[str, ...] = ()
    """Every earlier version that was found at fault; empty for a response kept as it was."""
    control_tokens: Collection[str] = ()
    """Control tokens of the model to be trained, beside the usual ones."""
    kind: Kind = "harmful"
    """Of the prompt."""


def stopped_by(candidate: Candidate, *, gates: GatesConfig) -> str | None:
    """The name of the first gate that stops the candidate; None if all let it through."""
    return next((name for name, stops in GATES if stops(candidate, gates)), None)


def repetition(text: str) -> float:
    """Share of the word 3-grams that occurred before, in [0, 1]."""
    found = words(text)
    grams = list(zip(found, found[1:], found[2:], strict=False))
    return 1.0 - len(set(grams)) / len(grams) if grams else 0.0


def same_text(first: str, second: str) -> bool:
    """Whether two texts differ in nothing but case and white space."""
    return first.casefold().split() == second.casefold().split()


def _empty(candidate: Candidate, gates: GatesConfig) -> bool:
    """Stops text of nothing but space, punctuation and invisible characters; symbols may stay."""
    return gates.empty and all(unicodedata.category(c)[0] in "ZPC" for c in candidate.text)


def _truncated(candidate: Candidate, gates: GatesConfig) -> bool:
    return gates.truncated and candidate.finish == "length"


def _too_long(candidate: Candidate, gates: GatesConfig) -> bool:
    return gates.max_words is not None and len(words(candidate.text)) > gates.max_words


def _leaked_wording(candidate: Candidate, gates: GatesConfig) -> bool:
    """Stops the method's own words; "No problem." is one of them only where a fault was found."""
    if not gates.leaked_wording:
        return False
    text = candidate.text.replace("\u2019", "'")
    says_no_fault = bool(candidate.mends) and _SAYS_NO_FAULT.fullmatch(text) is not None
    return says_no_fault or any(leak.search(text) for leak in _LEAKS)


def _control_tokens(candidate: Candidate, gates: GatesConfig) -> bool:
    if not gates.control_tokens:
        return False
    return _CONTROL_TOKEN.search(candidate.text) is not None or any(
        token in candidate.text for token in candidate.control_tokens
    )


def _unchanged(candidate: Candidate, gates: GatesConfig) -> bool:
    return gates.unchanged and any(same_text(candidate.text, old) for old in candidate.mends)


def _refuses_benign(candidate: Candidate, gates: GatesConfig) -> bool:
    """Stops what a critic's false alarm would teach: a few such refusals, and many follow."""
    return gates.refuses_benign and candidate.kind == "benign" and refuses(candidate.text)


def _repetition(candidate: Candidate, gates: GatesConfig) -> bool:
    """Stops loops: of phrases, of one word, of one letter."""
    if gates.max_repetition is None:
        return False
    found = words(candidate.text)
    return (
        repetition(candidate.text) > gates.max_repetition
        or _longest_run(found) > _LONGEST_RUN_OF_WORDS
        or any(_longest_run(word) > _LONGEST_RUN_OF_LETTERS for word in found)
    )


def _longest_run(items: Iterable[str]) -> int:
    """How often an item follows on itself at most."""
    return max((len(list(run)) for _, run in itertools.groupby(items)), default=0)


GATES: tuple[tuple[str, Callable[[Candidate, GatesConfig], bool]], ...] = (
    ("empty", _empty),
    ("truncated", _truncated),
    ("too_long", _too_long),
    ("leaked_wording", _leaked_wording),
    ("control_tokens", _control_tokens),
    ("unchanged", _unchanged),
    ("refuses_benign", _refuses_benign),
    ("repetition", _repetition),
)
"""In the order they are asked. `near_duplicate` compares demonstrations with each other, and so
comes after them: see `demonstrations.without_near_duplicates`."""
