"""A tokenizer that text cannot talk into a control token.

Control tokens (`<|im_start|>`, `<think>`) are the added tokens of a tokenizer. Switching their
matcher off for user text is not enough: `split_special_tokens` still lets non-special ones through,
and a vocabulary may spell them out. So we work on a copy in which every control token is spelled
behind `MARK`, a character that no text may hold: only what we write ourselves can become one. All
else (flags, prefix spaces, ids) stays as it was, so innocuous text gets the ids it always got.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tokenizers import AddedToken, Tokenizer

from charter.errors import EncodingError
from charter.records import content_hash

MARK = "\U0010fffe"
"""Precedes a control token that is meant. Unicode reserves this character for internal use."""
BREAK = "\U0010ffff"
"""A token of our own that starts a new run of text; its id is always cut off again."""

_UNFIT = re.compile(f"[\ud800-\udfff{MARK}{BREAK}]")
_NEUTRAL = re.compile(r"[\s▁]+|<0x[0-9A-F]{2}>")
"""Added tokens that control nothing: runs of white space (Gemma, GPT-NeoX) and single bytes."""


@dataclass(frozen=True, eq=False)
class Guard:
    """The guarded copy of a tokenizer."""

    tokenizer: Tokenizer
    control_ids: Mapping[str, int]
    """Every control token, as text would spell it."""
    pattern: re.Pattern[str]
    """Finds control tokens, the longest first."""
    fingerprint: str
    """Identifies the tokenizer it is a copy of."""

    def ids(self, text: str) -> list[int]:
        """The ids of a text in which the control tokens that are meant are marked."""
        return self.tokenizer.encode(text, add_special_tokens=False).ids

    def continuation(self, text: str) -> list[int]:
        """The ids of a text that does not stand at the very start."""
        return self.ids(BREAK + text)[1:]

    def text(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens leave nothing behind."""
        return self.tokenizer.decode(ids, skip_special_tokens=True).replace(MARK, "")

    def marked(self, literal: str) -> str:
        """A template's own text, with its control tokens marked as meant.

        Raises:
            EncodingError: The tokenizer does not read a marked control token as one.
        """
        marked = self.pattern.sub(lambda match: MARK + match[0], literal)
        meant = [self.control_ids[token] for token in self.pattern.findall(literal)]
        # Behind a full stop, since a normalizer may treat the beginning of a text in its own way.
        if [id_ for id_ in self.continuation("." + marked) if id_ in meant] != meant:
            raise EncodingError(
                f"the tokenizer does not read all control tokens in {literal!r}, which its chat "
                "template writes. Mark them `normalized: false` in tokenizer.json."
            )
        return marked


def guard(backend: Tokenizer) -> Guard:
    """A guarded copy of a tokenizer.

    Raises:
        EncodingError: Text can become a control token all the same.
    """
    spec: dict[str, Any] = json.loads(backend.to_str())
    # What the last caller left behind: it must shape neither our ids nor the fingerprint.
    spec |= {"truncation": None, "padding": None}
    fingerprint = content_hash(spec)
    control_ids = {
        str(token["content"]): int(token["id"])
        for token in spec["added_tokens"]
        if not _NEUTRAL.fullmatch(token["content"])
    }
    for token in spec["added_tokens"]:
        token["content"] = _respelled(token["content"], control_ids)
    spec["model"] = _respelled_model(spec["model"], control_ids)
    spec["post_processor"] = None
    copy = Tokenizer.from_str(json.dumps(spec, ensure_ascii=False))
    copy.add_special_tokens([AddedToken(BREAK)])  # pyright: ignore[reportUnknownMemberType]
    longest_first = sorted(control_ids, key=len, reverse=True)
    result = Guard(
        tokenizer=copy,
        control_ids=control_ids,
        pattern=re.compile("|".join(map(re.escape, longest_first)) or "(?!)"),
        fingerprint=fingerprint,
    )
    _check(result, unknown_id=_unknown_id(spec["model"]))
    return result


def cleaned(text: str) -> str:
    """A text that can be encoded: lone surrogates and our two markers become U+FFFD."""
    return _UNFIT.sub("\ufffd", text)


def _respelled(token: str, control: Mapping[str, int]) -> str:
    return MARK + token if token in control else token


def _respelled_model(model: dict[str, Any], control: Mapping[str, int]) -> dict[str, Any]:
    """The tokenizer's model, with control tokens out of the reach of text."""
    vocab: dict[str, int] | list[tuple[str, float]] = model["vocab"]
    changed: dict[str, Any] = {}
    if isinstance(vocab, dict):
        changed["vocab"] = {_respelled(token, control): id_ for token, id_ in vocab.items()}
    else:
        changed["vocab"] = [(_respelled(piece, control), score) for piece, score in vocab]
    if model.get("unk_token") is not None:
        changed["unk_token"] = _respelled(model["unk_token"], control)
    if "merges" in model:
        changed["merges"] = [
            (left, right)
            for left, right in model["merges"]
            if control.keys().isdisjoint((left, right, left + right))
        ]
    return model | changed


def _unknown_id(model: dict[str, Any]) -> int | None:
    """The id that stands for whatever the vocabulary lacks: text may give it, and it means nothing.

    Unigram models name it by id, the others by token.
    """
    if "unk_id" in model:
        return model["unk_id"]
    return model["vocab"].get(model.get("unk_token"))


def _check(result: Guard, *, unknown_id: int | None) -> None:
    for token, id_ in result.control_ids.items():
        assert result.tokenizer.token_to_id(MARK + token) == id_, "respelling keeps the ids"
        if id_ != unknown_id and id_ in result.continuation(token):
            raise EncodingError(
                f"text that spells {token!r} becomes that control token ({id_}), whatever we do. "
                "Mark it `normalized: false` in tokenizer.json."
            )
