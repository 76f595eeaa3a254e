"""What a chat template writes around the contents of a dialogue.

A template never sees a content, only a slot that stands for it. So a content cannot steer the
template, and what the template writes depends on nothing but the shape of the dialogue.
"""

# pyright: reportUnknownMemberType=false
# transformers types its tokenizers only in part.

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, cast

from jinja2 import TemplateError

from charter.errors import EncodingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

_SLOT = re.compile(r"@slot:(\d+)@")
_PROBES = "\n "

# Templates that state the date would give other ids after midnight than before.
_DATE = {
    "%Y-%m-%d": "2024-07-26", "%A": "Friday", "%a": "Fri", "%B": "July", "%b": "Jul",
    "%Y": "2024", "%y": "24", "%m": "07", "%d": "26", "%H": "00", "%M": "00", "%S": "00",
}  # fmt: skip
_DATE_FIXED = (
    "{% macro strftime_now(format) %}{{ format"
    + "".join(f" | replace({code!r}, {value!r})" for code, value in _DATE.items())
    + " }}{% endmacro +%}"
)

_Pieces = tuple[tuple[str, ...], tuple[int, ...]]


@dataclass(frozen=True, eq=False)
class Chat:
    """A chat template, and how it wants to be called."""

    tokenizer: PreTrainedTokenizerBase
    source: str
    takes_parts: bool = False
    """Contents are lists of parts, as vision templates expect, and not strings."""
    folds_system: bool = False
    """The template knows no system turn: it becomes the opening of the first user turn."""
    lead: str = ""
    """Spaces that the template writes before a response; they are part of its first token."""


@dataclass(frozen=True)
class Layout:
    """A rendered dialogue with its contents taken out."""

    literals: tuple[str, ...]
    order: tuple[int, ...]
    """The turn whose content stands between one literal and the next."""
    trims: Mapping[int, tuple[str | None, str | None]]
    """What the template strips off a turn's content, left and right; None: all white space."""

    def trimmed(self, turn: int, content: str) -> str:
        """A turn's content as the template writes it."""
        left, right = self.trims[turn]
        return content.lstrip(left).rstrip(right)

    def filled(self, contents: Sequence[str]) -> str:
        """The dialogue with these contents in their places."""
        pieces = [self.literals[0]]
        for turn, literal in zip(self.order, self.literals[1:], strict=True):
            pieces += (contents[turn], literal)
        return "".join(pieces)


def layout(
    chat: Chat, roles: Sequence[str], *, generation: bool, blank: Collection[int] = ()
) -> Layout:
    """What the template writes around the contents of turns with these roles.

    Args:
        chat: The template.
        roles: Who speaks, turn by turn.
        generation: Whether the generation prompt follows.
        blank: Turns whose content is empty; a template may treat those in another way.

    Raises:
        EncodingError: The template refuses these roles, or loses or alters a content.
    """

    def pieces(before: str = "", after: str = "") -> _Pieces:
        contents = [
            "" if turn in blank else f"{before}@slot:{turn}@{after}" for turn in range(len(roles))
        ]
        return _split(_rendered(chat, roles, contents, generation=generation))

    literals, order = pieces()
    if sorted(order) != [turn for turn in range(len(roles)) if turn not in blank]:
        raise EncodingError(
            f"the chat template does not write every content exactly once: of the turns "
            f"{', '.join(roles)} it wrote number {', '.join(map(str, order)) or 'none'} (from 0). "
            "Give the tokenizer a chat_template that writes each turn's content once."
        )
    lefts: dict[int, str] = dict.fromkeys(order, "")
    rights: dict[int, str] = dict.fromkeys(order, "")
    for space in _PROBES:
        before, after = pieces(before=space)[0], pieces(after=space)[0]
        for place, turn in enumerate(order):
            left, right = literals[place], literals[place + 1]
            if before[place] not in (left, left + space):
                raise _altered(roles)
            if after[place + 1] not in (right, space + right):
                raise _altered(roles)
            lefts[turn] += space if before[place] == left else ""
            rights[turn] += space if after[place + 1] == right else ""
    trims = {turn: (_stripped(lefts[turn]), _stripped(rights[turn])) for turn in order}
    return Layout(literals=literals, order=order, trims=trims)


def _rendered(
    chat: Chat, roles: Sequence[str], contents: Sequence[str], *, generation: bool
) -> str:
    messages = [
        {"role": role, "content": [{"type": "text", "text": text}] if chat.takes_parts else text}
        for role, text in zip(roles, contents, strict=True)
    ]
    source = _DATE_FIXED + chat.source if "strftime_now" in chat.source else chat.source
    try:
        rendered = chat.tokenizer.apply_chat_template(
            cast("list[dict[str, str]]", messages),
            chat_template=source,
            add_generation_prompt=generation,
            tokenize=False,
        )
    except (TemplateError, TypeError, ValueError) as error:
        raise EncodingError(
            f"the chat template refuses the turns {', '.join(roles) or '(none)'}: {error}. Change "
            "the dialogue's turns, or give the tokenizer a chat_template that accepts them."
        ) from error
    return cast("str", rendered)


def _split(rendered: str) -> _Pieces:
    pieces = _SLOT.split(rendered)
    return tuple(pieces[::2]), tuple(int(turn) for turn in pieces[1::2])


def _stripped(probes: str) -> str | None:
    """What `str.strip` takes, if these probes went."""
    return None if probes == _PROBES else probes


def _altered(roles: Sequence[str]) -> EncodingError:
    return EncodingError(
        f"the chat template changes contents in the turns {', '.join(roles)} by more than "
        "trimming white space. Give the tokenizer a chat_template that writes them as they are."
    )
