"""Weights, tokenizer and encoder from a directory or the hub: one door for writing and training."""

# pyright: reportUnknownMemberType=false
# transformers types its automatic classes only in part.

from __future__ import annotations

import hashlib
import json
import logging
import os
import re
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import Any, cast

os.environ.setdefault("HF_HUB_DISABLE_TELEMETRY", "1")  # before transformers is imported

import torch
from safetensors import SafetensorError
from tokenizers import Tokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)
from transformers.utils import logging as transformers_logging

from charter.config import STARTER, ModelSource
from charter.encoding import Encoder
from charter.encoding.guard import guard
from charter.errors import BackendError, EncodingError, RunError
from charter.launch import own_device, usual_dtype
from charter.models.reproducible import sum_in_fixed_order

_log = logging.getLogger(__name__)

sum_in_fixed_order()  # here, since it must come before the first weights are used

_ENGINE = "4"
"""Part of every fingerprint: raise it when the same weights may answer otherwise."""
_VOLATILE = ("_name_or_path", "transformers_version", "dtype", "torch_dtype")
"""What a model's configuration says that does not shape its answers, or is said elsewhere."""

_FAILURES = (OSError, ValueError, RuntimeError, ImportError, MemoryError, SafetensorError)
"""What libraries raise where a model cannot be loaded."""
_OUT_OF_MEMORY = re.compile("out of memory|not enough memory|allocate memory", re.IGNORECASE)
"""CUDA's words and those of PyTorch's allocator on a CPU, which raises a bare `RuntimeError`."""


@dataclass(frozen=True, eq=False)
class Loaded:
    """A model with everything that belongs to it."""

    name: str
    """What the user called it."""
    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    encoder: Encoder
    fingerprint: str
    """Identifies weights, dtype, configuration, tokenizer, template and engine."""

    @property
    def context(self) -> int | None:
        """The most ids that prompt and answer may have together; None: no limit is known."""
        config = cast("Any", self.model.config).get_text_config()
        return getattr(config, "max_position_embeddings", None)


def load(source: ModelSource) -> Loaded:
    """The model that `source` names, on the GPU if there is one, ready to answer.

    Only safetensors are read, and no code that comes with a model is run.

    Raises:
        BackendError: It is not there, cannot be fetched, or is no usable causal language model.
        EncodingError: Its tokenizer or chat template cannot be used faithfully.
        RunError: Memory ran out.
    """
    try:
        return _loaded(source)
    except _FAILURES as error:
        if not _is_out_of_memory(error):
            raise
        raise RunError(
            f"model {source.source}: out of memory while loading ({_first_line(error)}). Free "
            "some, set its `dtype: bfloat16`, let roles share one model, or name a smaller one."
        ) from error


def control_tokens(source: ModelSource) -> frozenset[str]:
    """The control tokens of the model that `source` names, as text would spell them.

    Reads its tokenizer and no weights; a script has none.

    Raises:
        BackendError: The tokenizer is not there, or cannot be fetched.
        EncodingError: It cannot be used faithfully.
    """
    if source.source.startswith("scripted:"):
        return frozenset()
    tokenizer = _fetched(AutoTokenizer, source)
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if not isinstance(backend, Tokenizer):
        raise EncodingError(
            f"model {source.source}: {type(tokenizer).__name__} is not a fast tokenizer, so its "
            "control tokens are not known. Convert it to a tokenizer.json first."
        )
    return frozenset(guard(backend).control_ids)


def _loaded(source: ModelSource) -> Loaded:
    transformers_logging.disable_progress_bar()
    device = own_device()
    tokenizer = _fetched(AutoTokenizer, source)
    model, report = _fetched(
        AutoModelForCausalLM,
        source,
        dtype=dtype_of(source, device=device),
        use_safetensors=True,
        output_loading_info=True,
    )
    _check_complete(source.source, missing=report["missing_keys"])
    _check_vocabulary(source.source, model=model, tokenizer=tokenizer)
    encoder = Encoder.of(tokenizer, eos_ids=_eos_ids(model), template=source.template)
    # Before the weights move: it would copy each of them back.
    identity = fingerprint(model, encoder=encoder)
    return Loaded(
        name=source.source,
        model=model.to(device).eval(),
        tokenizer=tokenizer,
        encoder=encoder,
        fingerprint=identity,
    )


def fingerprint(model: PreTrainedModel, *, encoder: Encoder) -> str:
    """A hash of everything that shapes the model's answers."""
    config = {
        key: value
        for key, value in cast("Any", model.config).to_dict().items()
        if key not in _VOLATILE
    }
    digest = hashlib.sha256(f"{_ENGINE} {encoder.fingerprint}".encode())
    digest.update(json.dumps(config, sort_keys=True, default=str).encode())
    for name, tensor in sorted(model.state_dict().items()):
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        # Flat first: a scalar has no dimension whose bytes could be viewed.
        digest.update(tensor.detach().cpu().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()[:16]


def _place(source: str) -> Path | str:
    """A directory, or the hub's name for a model."""
    if source == STARTER:
        return Path(str(resources.files("charter"))) / "starter" / "model"
    path = Path(source).expanduser()
    if path.is_dir():
        return path
    if path.is_absolute() or source.startswith((".", "~")) or source.count("/") > 1:
        raise BackendError(
            f"model {source}: no such directory. Name a directory that holds a Hugging Face model, "
            f"a hub id like `org/name`, or `{STARTER}`."
        )
    return source


def _fetched(auto: Any, source: ModelSource, **options: Any) -> Any:
    """What `auto` loads; from the hub's local cache where the hub cannot be reached."""
    place = _place(source.source)
    options |= {"trust_remote_code": False}
    if isinstance(place, str):
        options |= {"revision": source.revision or "main"}
    attempts = (True,) if isinstance(place, Path) else (False, True)
    failures: list[Exception] = []
    for local_only in attempts:
        try:
            return auto.from_pretrained(place, local_files_only=local_only, **options)
        except _FAILURES as error:
            if _is_out_of_memory(error):
                raise
            failures.append(error)
    raise BackendError(
        f"model {source.source} cannot be loaded: {_first_line(failures[0])}. " + _remedy(place)
    ) from failures[0]


def _is_out_of_memory(error: Exception) -> bool:
    return isinstance(error, MemoryError) or bool(_OUT_OF_MEMORY.search(str(error)))


def _first_line(error: Exception) -> str:
    lines = str(error).strip().splitlines()
    return lines[0].rstrip(".") if lines else type(error).__name__


def _remedy(place: Path | str) -> str:
    if isinstance(place, Path):
        return (
            f"{place} must hold config.json, tokenizer.json and weights as *.safetensors of a "
            "causal language model that transformers knows without remote code."
        )
    return (
        "Check the name, the revision, your connection and, for gated models, HF_TOKEN; or fetch "
        "it once and name the directory. Only safetensors are read, and no remote code is run."
    )


def dtype_of(source: ModelSource, *, device: torch.device) -> torch.dtype:
    """What a model's weights are kept in on this device, as its settings say."""
    match source.dtype:
        case "float32":
            return torch.float32
        case "bfloat16":
            return torch.bfloat16
        case "auto":
            return usual_dtype(device)


def _check_complete(source: str, *, missing: Any) -> None:
    """Refuse weights with gaps: transformers would fill them with random numbers."""
    if names := sorted(missing):
        raise BackendError(
            f"model {source}: {len(names)} weights are missing, {', '.join(names[:3])} among them. "
            "Is it a causal language model, and are all its files there?"
        )


def _check_vocabulary(source: str, *, model: Any, tokenizer: PreTrainedTokenizerBase) -> None:
    ids, rows = len(tokenizer), model.get_input_embeddings().num_embeddings
    if ids > rows:
        raise BackendError(
            f"model {source}: the tokenizer knows {ids} tokens and the model only {rows}. Resize "
            "the model's embeddings, or use the tokenizer that it was trained with."
        )


def _eos_ids(model: PreTrainedModel) -> list[int] | None:
    stops: Any = getattr(model.generation_config, "eos_token_id", None)
    return [stops] if isinstance(stops, int) else stops
