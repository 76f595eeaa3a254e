"""The chat template of a tokenizer, settled so that training and serving render alike.

What a template leaves open is closed in its source, not at the call: a model saved with the
settled template is asked by every server in the way it was trained.
"""

# pyright: reportUnknownMemberType=false
# transformers types its tokenizers only in part.

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING, Literal, cast

from charter.encoding.layouts import Chat, layout
from charter.errors import EncodingError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

CHATML_START = "<|im_start|>"
CHATML_END = "<|im_end|>"
_CHATML = (
    "{% for message in messages %}"
    "{{ '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' }}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n' }}{% endif %}"
)
# `+` keeps a line break that may follow; the block itself writes nothing.
_THINKING_OFF = "{% set enable_thinking = false +%}"
_OPEN_THOUGHT = re.compile(r"<(think|thinking|thought|reasoning)>\s*$")


def settled(tokenizer: PreTrainedTokenizerBase, *, fallback: Literal["chatml"] | None) -> Chat:
    """The tokenizer's chat template, with nothing left to the caller.

    Thinking is off, or its block is empty; BOS is written if the tokenizer would add it; and the
    generation prompt reaches up to the response's first word.

    Args:
        tokenizer: Whose template.
        fallback: The template of a tokenizer that has none.

    Raises:
        EncodingError: There is no template, or its contents cannot be told apart.
    """
    source = _own_source(tokenizer) if tokenizer.chat_template else _chatml(tokenizer, fallback)
    chat = _joined(_with_bos(_callable(tokenizer, source)))
    try:
        layout(chat, ("system", "user"), generation=True)
    except EncodingError:
        return replace(chat, folds_system=True)
    return chat


def _own_source(tokenizer: PreTrainedTokenizerBase) -> str:
    try:
        source = tokenizer.get_chat_template()
    except ValueError as error:
        raise EncodingError(
            f"the tokenizer of {_name(tokenizer)} has several chat templates and none by default: "
            f"{error} Set tokenizer.chat_template to the one to use."
        ) from error
    return _THINKING_OFF + source if "enable_thinking" in source else source


def _chatml(tokenizer: PreTrainedTokenizerBase, fallback: Literal["chatml"] | None) -> str:
    if fallback is None:
        raise EncodingError(
            f"the tokenizer of {_name(tokenizer)} has no chat template. "
            "Set `template: chatml` under the model, or use an instruction-tuned model."
        )
    added = cast("PreTrainedTokenizerFast", tokenizer).get_added_vocab()
    missing = [token for token in (CHATML_START, CHATML_END) if token not in added]
    if missing:
        # Plain text would mark turns just as well, but then any user could write such marks.
        raise EncodingError(
            f"`template: chatml` needs tokens that the tokenizer of {_name(tokenizer)} lacks: "
            f"{', '.join(missing)}. Use a model that has them, or give its tokenizer a chat "
            "template made of control tokens it has."
        )
    return _CHATML


def _name(tokenizer: PreTrainedTokenizerBase) -> str:
    return cast("str", tokenizer.name_or_path) or "the model"


def _callable(tokenizer: PreTrainedTokenizerBase, source: str) -> Chat:
    """The template with contents as strings or, if it loses those, as lists of parts."""
    chat = Chat(tokenizer, source)
    try:
        layout(chat, ("user",), generation=True)
    except EncodingError as refusal:
        chat = replace(chat, takes_parts=True)
        try:
            layout(chat, ("user",), generation=True)
        except EncodingError:
            raise refusal from None
    return chat


def _with_bos(chat: Chat) -> Chat:
    """The template, writing the BOS that the tokenizer would put before a plain text."""
    bos = cast("str | None", chat.tokenizer.bos_token)
    if bos is None or chat.tokenizer.encode("a")[:1] != [chat.tokenizer.bos_token_id]:
        return chat
    if layout(chat, ("user",), generation=True).literals[0].startswith(bos):
        return chat
    return replace(chat, source="{{ bos_token }}" + chat.source)


def _joined(chat: Chat) -> Chat:
    """The template, its generation prompt ending where the response begins.

    Some templates stop early (`<|start|>assistant`, the channel still to come) and some leave a
    thought open. What is missing is added, so that no response has to begin with it. Spaces are
    not: they belong to a response's first token.
    """
    opening = layout(chat, ("user",), generation=True).literals[1]
    told = layout(chat, ("user", "assistant"), generation=False).literals[1]
    missing = ""
    if told.startswith(opening):
        missing = told.removeprefix(opening)
    elif thought := _OPEN_THOUGHT.search(opening):
        missing = f"\n</{thought[1]}>\n\n"
    written = missing.rstrip(" ")
    chat = replace(chat, lead=missing.removeprefix(written))
    if not written:
        return chat
    # Jinja drops a template's last line break; with more behind it, we must.
    source = chat.source.removesuffix("\n")
    ending = f"{{% if add_generation_prompt %}}{{{{ {written!r} }}}}{{% endif %}}"
    return replace(chat, source=source + ending)
