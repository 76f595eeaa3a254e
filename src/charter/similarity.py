"""Near-duplicate texts, by the Jaccard similarity of their word 3-grams.

The search is exact: no pair is missed and none is made up, so a split that promises to keep
near-duplicates apart does. Texts that are similar enough must share one of their rarest 3-grams
(Bayardo et al. 2007, "Scaling up all pairs similarity search"), so only those are compared. On
texts of this length that is also quicker than estimates from sketches (MinHash).
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence

from charter.records import Dialogue

Shingles = frozenset[str]
"""What a text is compared by."""

_SIZE = 3
_SCRIPTS_WITHOUT_SPACES = "\u3040-\u30ff\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff"
_WORD = re.compile(rf"[{_SCRIPTS_WITHOUT_SPACES}]|(?:(?![{_SCRIPTS_WITHOUT_SPACES}])\w)+")
_ROUNDING = 1e-9


def words(text: str) -> list[str]:
    """The words, without case and punctuation; a Chinese or Japanese character is a word."""
    return _WORD.findall(unicodedata.normalize("NFKC", text).casefold())


def dialogue_text(dialogue: Dialogue) -> str:
    """What was said, without the system turn: similar dialogues under one are not alike by it."""
    return "\n".join(message.content for message in dialogue if message.role != "system")


def shingles(text: str) -> Shingles:
    """The text's word 3-grams; of fewer words, the words; of none, the bare text."""
    found = words(text)
    if len(found) >= _SIZE:
        return frozenset(" ".join(found[i : i + _SIZE]) for i in range(len(found) - _SIZE + 1))
    return frozenset(found or (text.strip(),))


def jaccard(first: Shingles, second: Shingles) -> float:
    """Share of all shingles that both have, in [0, 1]."""
    return len(first & second) / len(first | second)


def clusters(texts: Sequence[str], *, threshold: float) -> list[int]:
    """The cluster of each text, named by the position of the cluster's first text.

    Similar texts are in one cluster, and so are texts that a chain of similar ones connects.
    Texts that share no 3-gram are never similar, even at a threshold of 0.
    """
    sets = [shingles(text) for text in texts]
    frequency = Counter(shingle for item in sets for shingle in item)
    positions: dict[Shingles, int] = {}
    parents = [positions.setdefault(item, number) for number, item in enumerate(sets)]
    postings: defaultdict[str, list[int]] = defaultdict(list)
    for item, number in positions.items():
        prefix = _prefix(item, frequency, threshold=threshold)
        for other in _sharing(prefix, postings):
            first, second = _root(parents, other), _root(parents, number)
            if first != second and jaccard(item, sets[other]) >= threshold:
                parents[max(first, second)] = min(first, second)
        for shingle in prefix:
            postings[shingle].append(number)
    return [_root(parents, number) for number in range(len(texts))]


def similar_to_any(texts: Sequence[str], against: Sequence[str], *, threshold: float) -> list[bool]:
    """Whether each text is similar to one of those in `against`."""
    known = list({shingles(text) for text in against})
    frequency = Counter(shingle for item in known for shingle in item)
    postings: defaultdict[str, list[int]] = defaultdict(list)
    for number, item in enumerate(known):
        for shingle in _prefix(item, frequency, threshold=threshold):
            postings[shingle].append(number)

    def is_known(item: Shingles) -> bool:
        prefix = _prefix(item, frequency, threshold=threshold)
        others = _sharing(prefix, postings)
        return any(jaccard(item, known[other]) >= threshold for other in others)

    return [is_known(shingles(text)) for text in texts]


def similar_to_earlier(texts: Sequence[str], *, threshold: float) -> list[bool]:
    """Whether each text is similar to an earlier one that was itself similar to none before it."""
    sets = [shingles(text) for text in texts]
    frequency = Counter(shingle for item in sets for shingle in item)
    postings: defaultdict[str, list[int]] = defaultdict(list)
    answers: list[bool] = []
    for number, item in enumerate(sets):
        prefix = _prefix(item, frequency, threshold=threshold)
        others = _sharing(prefix, postings)
        answers.append(any(jaccard(item, sets[other]) >= threshold for other in others))
        if not answers[-1]:
            for shingle in prefix:
                postings[shingle].append(number)
    return answers


def _prefix(item: Shingles, frequency: Mapping[str, int], *, threshold: float) -> list[str]:
    """The rarest shingles: so many that a set this similar cannot do without all of them.

    A similar set shares at least `threshold * len(item)` shingles, so it may lack at most the
    rest. All sets must be ordered alike, hence the shingle itself as the second key.
    """
    may_lack = len(item) - max(1, math.ceil(threshold * len(item) - _ROUNDING))
    ordered = sorted(item, key=lambda shingle: (frequency.get(shingle, 0), shingle))
    return ordered[: may_lack + 1]


def _sharing(prefix: Iterable[str], postings: Mapping[str, Sequence[int]]) -> set[int]:
    """The numbers of the sets that have a shingle of the prefix."""
    return {number for shingle in prefix for number in postings.get(shingle, ())}


def _root(parents: list[int], number: int) -> int:
    """The first of the number's cluster; paths are halved on the way."""
    while parents[number] != number:
        parents[number] = parents[parents[number]]
        number = parents[number]
    return number
