"""Prompts, responses and training examples as ids, by one tokenizer and chat template."""

# pyright: reportUnknownMemberType=false
# transformers types its tokenizers only in part.

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Literal

from tokenizers import Tokenizer

from charter.encoding.guard import BREAK, Guard, cleaned, guard
from charter.encoding.layouts import Chat, Layout, layout
from charter.encoding.templates import CHATML_END, settled
from charter.errors import EncodingError
from charter.records import Dialogue, content_hash, user

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


@dataclass(frozen=True)
class Example:
    """A dialogue and its response, ready to train on."""

    ids: tuple[int, ...]
    prompt_length: int
    """Everything from here on is supervised; the terminator is last."""


@dataclass(frozen=True, eq=False)
class Encoder:
    """Turns dialogues into ids and sampled ids into text; made by `of`.

    Contents pass the tokenizer's normalizer, pre-tokenizer and model but not its matcher of added
    tokens, so no text becomes a control token. A dialogue without control tokens in its text gets
    the very ids that rendering and tokenizing `template` gives.
    """

    template: str
    """The chat template in use, thinking off: save it with a trained model."""
    terminator: int
    """Ends a response: the first token after a finished one that generation stops at."""
    eos_ids: frozenset[int]
    """Everything that generation stops at."""
    fingerprint: str
    """Identifies tokenizer, template and terminators."""
    _chat: Chat = field(repr=False)
    _guard: Guard = field(repr=False)
    _opening: str = field(repr=False)
    """The end of every generation prompt, marked, behind a break: what a response continues."""
    _opening_ids: list[int] = field(repr=False)
    _layouts: dict[tuple[tuple[str, ...], tuple[int, ...], bool], Layout] = field(repr=False)

    @classmethod
    def of(
        cls,
        tokenizer: PreTrainedTokenizerBase,
        *,
        eos_ids: Collection[int] | None,
        template: Literal["chatml"] | None = None,
    ) -> Encoder:
        """The encoder of a tokenizer.

        Args:
            tokenizer: A tokenizer with a `tokenizers` back end.
            eos_ids: What generation stops at, by the model's generation config; None: the
                tokenizer's EOS token.
            template: The chat template to use where the tokenizer has none. Its end of turn joins
                `eos_ids`, since no generation config knows of it.

        Raises:
            EncodingError: The tokenizer or its template cannot be used faithfully.
        """
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if not isinstance(backend, Tokenizer):
            raise EncodingError(
                f"{type(tokenizer).__name__} is not a fast tokenizer, and only those can be kept "
                "from reading control tokens in text. Convert it to a tokenizer.json first."
            )
        chat = settled(tokenizer, fallback=template)
        guarded = guard(backend)
        stops = frozenset(_eos_ids(tokenizer) if eos_ids is None else eos_ids)
        if not tokenizer.chat_template:
            stops |= {guarded.control_ids[CHATML_END]}
        terminator = _terminator(chat, guarded, stops)
        opening = BREAK + guarded.marked(layout(chat, ("user",), generation=True).literals[-1])
        shown = [chat.source, dict(tokenizer.special_tokens_map), sorted(stops), terminator]
        return cls(
            template=chat.source,
            terminator=terminator,
            eos_ids=stops,
            fingerprint=content_hash([guarded.fingerprint, *shown]),
            _chat=chat,
            _guard=guarded,
            _opening=opening,
            _opening_ids=guarded.ids(opening),
            _layouts={},
        )

    def prompt_ids(self, dialogue: Dialogue) -> list[int]:
        """The ids of a dialogue and the generation prompt: all that precedes a response.

        Raises:
            EncodingError: The template refuses the dialogue.
        """
        turns = self._folded(dialogue)
        roles = tuple(message.role for message in turns)
        contents = [cleaned(message.content) for message in turns]
        shape = self._layout(roles)
        contents = [shape.trimmed(turn, content) for turn, content in enumerate(contents)]
        if not all(contents):
            blank = tuple(turn for turn, content in enumerate(contents) if not content)
            shape = self._layout(roles, blank)
        return self._guard.ids(shape.filled(contents))

    def response_ids(self, text: str) -> list[int]:
        """The ids of a response, or of its beginning, as they follow a prompt; no terminator."""
        said = self._chat.lead + cleaned(text)
        ids = self._guard.ids(self._opening + said)
        length = len(self._opening_ids)
        # Where the first word would merge with the prompt's last, it has to stand alone: at
        # generation the prompt's ids are fixed before the response begins.
        if ids[:length] != self._opening_ids:
            return self._guard.continuation(said)
        return ids[length:]

    def example(self, dialogue: Dialogue, response: str, *, ends: bool = True) -> Example:
        """A training example; the response is trimmed as the template trims finished turns.

        One that was cut off does not end: it has no terminator, or that would be learnt.

        Raises:
            EncodingError: The template refuses the dialogue.
        """
        prompt = self.prompt_ids(dialogue)
        finished = self._layout(("user", "assistant"), generation=False)
        answer = self.response_ids(finished.trimmed(1, response))
        closing = (self.terminator,) if ends or not answer else ()
        return Example(ids=(*prompt, *answer, *closing), prompt_length=len(prompt))

    def text(self, ids: Sequence[int]) -> str:
        """What sampled ids say, up to the first EOS; special tokens leave nothing behind."""
        said = list(takewhile(lambda id_: id_ not in self.eos_ids, ids))
        return self._guard.text(said).removeprefix(self._chat.lead)

    def control_tokens_in(self, text: str) -> tuple[str, ...]:
        """The control tokens that a text spells out, in order: a sign that something leaked."""
        return tuple(self._guard.pattern.findall(text))

    def _folded(self, dialogue: Dialogue) -> Dialogue:
        if not self._chat.folds_system or not dialogue or dialogue[0].role != "system":
            return dialogue
        if len(dialogue) == 1 or dialogue[1].role != "user":
            raise EncodingError(
                "the chat template has no system turn, and the dialogue no user turn right after "
                "it to carry its text. Put a user turn there."
            )
        opening = user(dialogue[0].content + "\n\n" + dialogue[1].content)
        return (opening, *dialogue[2:])

    def _layout(
        self, roles: tuple[str, ...], blank: tuple[int, ...] = (), *, generation: bool = True
    ) -> Layout:
        key = (roles, blank, generation)
        if key not in self._layouts:
            plain = layout(self._chat, roles, blank=blank, generation=generation)
            literals = tuple(self._guard.marked(literal) for literal in plain.literals)
            self._layouts[key] = replace(plain, literals=literals)
        return self._layouts[key]


def _eos_ids(tokenizer: PreTrainedTokenizerBase) -> list[int]:
    return [tokenizer.eos_token_id] if isinstance(tokenizer.eos_token_id, int) else []


def _terminator(chat: Chat, guarded: Guard, eos_ids: frozenset[int]) -> int:
    """The first token after a finished response that is in the EOS set.

    Some templates end the last turn with nothing, and the next turn's opening ends it instead.
    """
    last = layout(chat, ("user", "assistant"), generation=False).literals[2]
    inner = layout(chat, ("user", "assistant", "user"), generation=False).literals[2]
    followers = [
        id_ for tail in (last, inner) for id_ in guarded.continuation(guarded.marked(tail))
    ]
    for id_ in followers:
        if id_ in eos_ids:
            return id_
    names = guarded.tokenizer.id_to_token
    raise EncodingError(
        "the model would never learn to stop: after a finished response the chat template writes "
        f"{[(id_, names(id_)) for id_ in followers]}, and generation stops only at "
        f"{[(id_, names(id_)) for id_ in sorted(eos_ids)]}. Add the template's end of turn to "
        "eos_token_id in the model's generation_config.json."
    )
