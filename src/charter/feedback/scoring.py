"""A trained reward model at work: rewards of responses, the prompt read once for all of them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoTokenizer, PreTrainedModel

from charter.encoding import Encoder
from charter.errors import BackendError, OverlongError
from charter.launch import own_device
from charter.learning.grids import Group, Layout
from charter.learning.measured import rewards_of
from charter.learning.scalar import load_scalar_model
from charter.learning.tree import cost_of, sound_layouts
from charter.records import Completion, Dialogue, user

_TOKENS_PER_BATCH = 8192


class RewardScorer:
    """A reward model, ready to score; made by `load_scorer`.

    A response that runs over the model's context is read as far as that goes, as one that was cut
    off is; `fits` tells beforehand. So a training need not end for it: RL leaves out prompts
    without room for a response, but what a response says may be more ids than were sampled.
    """

    def __init__(
        self,
        model: PreTrainedModel,
        *,
        encoder: Encoder,
        tokens_per_batch: int = _TOKENS_PER_BATCH,
    ) -> None:
        """Takes a loaded reward model.

        Args:
            model: A sequence classification model with one label.
            encoder: Of its tokenizer.
            tokens_per_batch: That go through the model at once.
        """
        self.encoder = encoder
        self._model = model
        self._tokens_per_batch = tokens_per_batch

    def rewards(self, dialogue: Dialogue, responses: Sequence[str]) -> list[float]:
        """The reward of each finished response to a dialogue, in nats.

        Raises:
            OverlongError: The dialogue leaves no room for a response.
            EncodingError: The template refuses the dialogue.
        """
        finished = [Completion(text=text, finish="stop") for text in responses]
        (rewards,) = self.rewards_of_all([(dialogue, finished)])
        return rewards

    def rewards_of_all(
        self, answered: Sequence[tuple[Dialogue, Sequence[Completion]]]
    ) -> list[list[float]]:
        """The same for many dialogues at once, in their order; each needs a response.

        Responses are read as training shows them: without space around them, and with a terminator
        unless they were cut off.

        Raises:
            OverlongError: A dialogue leaves no room for a response.
            EncodingError: The template refuses a dialogue.
        """
        return self.rewards_of_groups([self._group(*each) for each in answered])

    def rewards_of_groups(self, groups: Sequence[Group]) -> list[list[float]]:
        """The same for ids by the model's own tokenizer, such as sampled ones.

        Raises:
            OverlongError: A prompt leaves no room for a completion.
        """
        if not groups:
            return []
        named = {str(number): self._fitting(group) for number, group in enumerate(groups)}
        # By these groups alone: another layout has other last bits, and a training that was
        # resumed has scored other groups before than one that was not.
        layout = min(
            self._layouts, key=lambda each: cost_of(each, model=self._model, groups=groups)
        )
        found = rewards_of(
            self._model, named, layout=layout, tokens_per_batch=self._tokens_per_batch
        )
        return [list(found[name]) for name in named]

    @cached_property
    def _layouts(self) -> list[Layout]:
        """All that read this model alike, found once; on the same words in every process."""
        asked, said = (user("How are you?"),), Completion(text="I am well.", finish="stop")
        probe = self._fitting(self._group(asked, [said, said]))
        return sound_layouts(self._model, ["tree", "shared"], probe=[probe])

    def fits(self, dialogue: Dialogue, responses: Sequence[Completion]) -> bool:
        """Whether the model can read the whole of each of these responses to a dialogue."""
        group = self._group(dialogue, responses)
        longest = len(group.prompt) + max(map(len, group.completions))
        return self.context is None or longest <= self.context

    @property
    def context(self) -> int | None:
        """The most ids that prompt and response may have together; None: no limit is known."""
        config = cast("Any", self._model.config).get_text_config()
        return getattr(config, "max_position_embeddings", None)

    def _group(self, dialogue: Dialogue, responses: Sequence[Completion]) -> Group:
        examples = [
            self.encoder.example(dialogue, each.text.strip(), ends=each.finish != "length")
            for each in responses
        ]
        at = examples[0].prompt_length
        return Group(examples[0].ids[:at], tuple(example.ids[at:] for example in examples))

    def _fitting(self, group: Group) -> Group:
        """The group as far as the context goes; a completion that runs over it loses its end."""
        if self.context is None:
            return group
        room = self.context - len(group.prompt)
        if room < 1:
            raise OverlongError(
                f"the prompt has {len(group.prompt)} tokens and leaves no room for a response in "
                f"the {self.context} that the reward model reads. Leave it out"
            )
        return Group(group.prompt, tuple(ids[:room] for ids in group.completions))


def load_scorer(directory: Path, *, dtype: torch.dtype = torch.float32) -> RewardScorer:
    """The reward model in a directory that the stage `reward` wrote, on the GPU if there is one.

    Args:
        directory: Where it lies.
        dtype: Of all but its head.

    Raises:
        BackendError: It is not there, or is no reward model.
        EncodingError: Its tokenizer or chat template cannot be used faithfully.
    """
    device = own_device()
    model = load_scalar_model(directory, dtype=dtype)
    tokenizers: Any = AutoTokenizer  # transformers types it only in part
    try:
        tokenizer = tokenizers.from_pretrained(
            directory, local_files_only=True, trust_remote_code=False
        )
    except (OSError, ValueError) as error:
        raise BackendError(f"reward model {directory}: its tokenizer cannot be read") from error
    stops: int | list[int] | None = cast("Any", model.config).eos_token_id
    encoder = Encoder.of(tokenizer, eos_ids=[stops] if isinstance(stops, int) else stops)
    moved: Any = model
    return RewardScorer(moved.to(device), encoder=encoder)
