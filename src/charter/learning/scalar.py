"""Reward models: a causal language model's backbone under a head that gives one number.

On disk it is a Hugging Face model for sequence classification with one label. Its forward pass
takes the reward from the last token that is not padding. So the padding token must be none that
ends a response: see `padding_id`.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError
from torch import nn
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from charter.encoding import Encoder
from charter.errors import BackendError, ConfigError
from charter.learning.pretrained import save_trained
from charter.learning.tree import SCALAR_HEAD
from charter.seeding import derive

_classifiers: Any = AutoModelForSequenceClassification  # transformers types it only in part


def scalar_model(model: PreTrainedModel, *, pad_id: int, seed: int) -> PreTrainedModel:
    """A reward model with the backbone of a causal language model, copied, and a new head.

    Args:
        model: Where it starts; in the same precision and on the same device.
        pad_id: See `padding_id`.
        seed: Of the run; the head is drawn from it.

    Raises:
        ConfigError: transformers knows no sequence classification for this kind of model.
    """
    config: Any = copy.deepcopy(model.config)
    config.num_labels = 1
    config.pad_token_id = config.get_text_config().pad_token_id = pad_id
    try:
        with model.device:
            scalar: Any = _classifiers.from_config(config, dtype=model.dtype)
    except ValueError as error:
        raise ConfigError(
            f"a {config.model_type} model cannot be given a scalar head: transformers has no "
            "sequence classification for it. Name another `reward.base`"
        ) from error
    head = getattr(scalar, SCALAR_HEAD, None)
    if not isinstance(head, nn.Linear):
        raise ConfigError(
            f"{type(scalar).__name__} has no linear head named `{SCALAR_HEAD}`. Name another "
            "`reward.base`"
        )
    scalar.base_model.load_state_dict(model.base_model.state_dict())
    _draw_head(head, seed=seed)
    return cast("PreTrainedModel", scalar.train(model.training))


def _draw_head(head: nn.Linear, *, seed: int) -> None:
    """Weights so small that training begins with rewards near zero: all responses seem alike."""
    draws = torch.Generator().manual_seed(derive(seed, "scalar head"))
    weights = torch.randn(head.weight.shape, generator=draws) / head.in_features
    with torch.no_grad():
        head.weight.copy_(weights)
        if cast("Any", head.bias) is not None:
            head.bias.zero_()


def padding_id(tokenizer: PreTrainedTokenizerBase, encoder: Encoder) -> int:
    """What a reward model can tell padding by: a token that no response ends with.

    The tokenizer's own, if it is not a terminator as well; else another control token; else, where
    there is none, an ordinary one.
    """
    vocabulary: Any = tokenizer
    own = () if vocabulary.pad_token_id is None else (vocabulary.pad_token_id,)
    candidates = (*own, *sorted(vocabulary.all_special_ids), *range(len(vocabulary)))
    return next(id_ for id_ in candidates if id_ not in encoder.eos_ids)


def save_scalar_model(
    model: PreTrainedModel,
    *,
    tokenizer: PreTrainedTokenizerBase,
    encoder: Encoder,
    directory: Path,
    dtype: torch.dtype,
) -> None:
    """A directory that loads anywhere as a sequence classification model, without peft."""
    padded: Any = copy.deepcopy(tokenizer)
    # Whoever pads with this tokenizer pads with what the model takes for padding.
    padded.pad_token = padded.convert_ids_to_tokens(cast("Any", model.config).pad_token_id)
    save_trained(model, tokenizer=padded, encoder=encoder, directory=directory, dtype=dtype)


def load_scalar_model(directory: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """A reward model from a directory, on the CPU, ready to answer.

    Its head is kept in float32 whatever the rest is: of what it says small differences count.

    Only safetensors are read, and no code that comes with a model is run.

    Raises:
        BackendError: It is not there, or is no reward model.
    """
    try:
        model, report = _classifiers.from_pretrained(
            directory,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        first_line = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise BackendError(f"reward model {directory} cannot be loaded: {first_line}") from error
    missing = sorted(report["missing_keys"])
    if missing or model.config.num_labels != 1:
        wrong = f"no {missing[0]}" if missing else f"{model.config.num_labels} labels, not one"
        raise BackendError(
            f"{directory} holds no reward model ({wrong}). Name the directory that the stage "
            "`reward` wrote, or another sequence classification model with one label"
        )
    if isinstance(head := getattr(model, SCALAR_HEAD, None), nn.Module):
        head.float()
    return cast("PreTrainedModel", model.eval())
