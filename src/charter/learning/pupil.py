"""A model that is about to be taught, and its examples as far as it can read them."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, Protocol, TypeVar

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from charter.config import LoraConfig, TrainingConfig
from charter.encoding import Encoder
from charter.errors import RunError
from charter.records import content_hash

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Pupil:
    """The model that a training starts from, loaded for this alone: it is changed in place."""

    source: str
    """What the user called it; for the model card."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    fingerprint: str
    """Of the weights as loaded; resuming a training of other weights is refused."""
    context: int | None
    """The most ids that it reads at once; None: no limit is known."""

    def identity(self, lora: LoraConfig | None) -> str:
        """Names what is trained: weights, encoding and adapters."""
        adapters = lora.model_dump(mode="json") if lora else None
        return content_hash([self.fingerprint, self.encoder.fingerprint, adapters])

    def longest(self, section: TrainingConfig) -> int:
        """The most ids of an example: behind its context a model has learnt no position."""
        return min(section.max_length, self.context or section.max_length)


class Named(Protocol):
    """A record with a name of its own."""

    @property
    def id(self) -> str:
        """Its name."""
        ...


Item = TypeVar("Item", bound=Named)
Ids = TypeVar("Ids")


@dataclass(frozen=True)
class Encoded(Generic[Ids]):
    """Examples as ids, by their names; the names of those that are too long apart."""

    kept: Mapping[str, Ids]
    too_long: tuple[str, ...]


def encoded(
    items: Sequence[Item],
    *,
    what: str,
    encode: Callable[[Item], Ids],
    length: Callable[[Ids], int],
    pupil: Pupil,
    section: TrainingConfig,
    stage: str,
) -> Encoded[Ids]:
    """The items as ids; what the pupil cannot read whole is left out and named.

    Args:
        items: What is to be encoded.
        what: The items in a user's words, for messages ("demonstrations").
        encode: Gives an item's ids.
        length: Of the longest sequence among them.
        pupil: Who is to read them.
        section: Says how long they may be.
        stage: Its name.

    Raises:
        RunError: Two items share an id.
    """
    longest = pupil.longest(section)
    kept: dict[str, Ids] = {}
    too_long: list[str] = []
    seen: set[str] = set()
    for item in items:
        if item.id in seen:
            raise RunError(f"two {what} have the id {item.id}: ids must be unique")
        seen.add(item.id)
        ids = encode(item)
        if length(ids) > longest:
            too_long.append(item.id)
        else:
            kept[item.id] = ids
    if too_long:
        _log.warning(
            "%d of %d %s are longer than %d tokens and left out (%s)",
            len(too_long),
            len(items),
            what,
            longest,
            f"`{stage}.max_length`" if longest == section.max_length else "the model's context",
        )
    return Encoded(kept, tuple(too_long))
