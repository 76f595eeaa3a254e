"""The forward pass of Llama and its kin on a CPU, in few operations.

To the bit what transformers computes. But queries, keys and values are one product, products add
to the residual stream by themselves, and behind the last layer's attention only those rows go on
whose logits are wanted.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from charter.models.attention import Step
from charter.models.products import Linear, Products, has_room
from charter.models.reproducible import whole_vectors

_KIN = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
_ROPES_BY_LENGTH = {"dynamic", "longrope"}
"""Rotary positions whose angles depend on the longest conversation of a step."""
_FEWEST_POSITIONS = 256
"""Whose angles are kept; a power of two."""
_BUILT_BY = ("transformers.", "torch.nn.modules.")


@dataclass(frozen=True)
class _Layer:
    """A layer's parts, and its weights ready to multiply by."""

    parts: Any
    inputs: Sequence[Linear]
    """Make queries, keys and values: all at once, or where memory is short one each."""
    output: Linear
    gate: Linear
    up: Linear
    down: Linear
    window: int | None
    """How many positions a row sees; None: all."""


class Decoder:
    """Runs packed rows through a model's own weights, as long as its parts are as they were."""

    def __init__(self, model: Any) -> None:
        """`model` is as `Decoder.of` demands."""
        self._model = model
        self._modules = list[nn.Module](model.modules())
        self._parts = [(own, dict(own["_modules"])) for own in map(vars, self._modules)]
        self._ready: tuple[Sequence[_Layer], Linear] | None = None
        """The layers, and the head that makes logits."""
        self._table: tuple[Tensor, Tensor] | None = None
        """Angles of all positions so far; None: nothing yet, or they depend on more."""

    @classmethod
    def of(cls, model: Any, products: Products) -> Decoder | None:
        """A model's decoder, if it is of the kin, as it was built, and multiplied by oneDNN.

        Adapters and other layers of other people have no place here.
        """
        modules = list[nn.Module](model.modules())
        fits = (
            type(model).__name__ in _KIN
            and all(type(module).__module__.startswith(_BUILT_BY) for module in modules)
            and model.config.hidden_act == "silu"
            and products.takes(module for module in modules if isinstance(module, nn.Linear))
        )
        return cls(model) if fits else None

    @property
    def untouched(self) -> bool:
        """Whether the parts are those it was built of, and nobody waits for one to be called."""
        return all(
            own["_modules"] == children
            and not (own["_forward_hooks"] or own["_forward_pre_hooks"])
            and "forward" not in own
            for own, children in self._parts
        )

    @property
    def side_by_side(self) -> bool:
        """Whether several threads may run it: rotary positions by length are made in place."""
        return self._model.model.rotary_emb.rope_type not in _ROPES_BY_LENGTH

    @property
    def nbytes(self) -> int:
        """What its weights take."""
        return sum(weight.nbytes for weight in set(self._model.parameters()))

    def prepare(self) -> None:
        """Lay weights out, where that is to be done: before several threads ask for it."""
        self._ready = self._ready or self._laid_out()

    def weights_changed(self) -> None:
        """Drop what was made from older weights."""
        self._ready = None

    def run(self, ids: Tensor, positions: Tensor, step: Step, *, keep: Sequence[int]) -> Tensor:
        """Logits of the kept rows; see `Network.run`."""
        self.prepare()
        assert self._ready
        (layers, head), inner = self._ready, self._model.model
        states = inner.embed_tokens(ids)
        angles = self._angles(states, positions)
        kept = [*keep, *[0] * (-len(keep) % whole_vectors())]
        for layer in layers:
            read = _attended(layer, states, angles, step)
            if layer is layers[-1] and kept != list(range(len(ids))):
                last = torch.tensor(kept, dtype=torch.long)
                read, states = read.index_select(0, last), states.index_select(0, last)
            states = _fed_forward(layer, layer.output.plus(read, states))
        return head(_normed(states, inner.norm))[: len(keep)]

    def _angles(self, states: Tensor, positions: Tensor) -> tuple[Tensor, Tensor]:
        """What `_turn` turns each row's heads by."""
        rotary = self._model.model.rotary_emb
        if not self.side_by_side:
            return _signed(*rotary(states, positions[None]))
        needed, table = int(positions.max()) + 1, self._table
        if table is None or len(table[0]) < needed:
            known = torch.arange(1 << (max(needed, _FEWEST_POSITIONS) - 1).bit_length())
            self._table = table = _signed(*rotary(states, known[None]))
        cos, sin = table
        return cos.index_select(0, positions), sin.index_select(0, positions)

    def _laid_out(self) -> tuple[Sequence[_Layer], Linear]:
        """Weights as oneDNN likes them best, if there is room for a copy: the bits are the same."""
        copied = has_room(module for module in self._modules if isinstance(module, nn.Linear))
        config = self._model.config
        everywhere = config.sliding_window if config.model_type == "mistral" else None

        def ready(*layers: nn.Linear) -> list[Linear]:
            if copied:
                return [Linear.joined(*layers)]
            return [Linear(layer.weight, layer.bias) for layer in layers]

        def layer(parts: Any) -> _Layer:
            attention, mlp = parts.self_attn, parts.mlp
            return _Layer(
                parts=parts,
                inputs=ready(attention.q_proj, attention.k_proj, attention.v_proj),
                output=ready(attention.o_proj)[0],
                gate=ready(mlp.gate_proj)[0],
                up=ready(mlp.up_proj)[0],
                down=ready(mlp.down_proj)[0],
                window=getattr(attention, "sliding_window", everywhere),
            )

        return [layer(parts) for parts in self._model.model.layers], ready(self._model.lm_head)[0]


def _attended(layer: _Layer, states: Tensor, angles: tuple[Tensor, Tensor], step: Step) -> Tensor:
    """What each row reads of its conversation: rows x all heads."""
    attention, rows = layer.parts.self_attn, _normed(states, layer.parts.input_layernorm)
    made = [linear(rows) for linear in layer.inputs]
    joined = made[0] if len(made) == 1 else torch.cat(made, -1)
    heads = joined.view(len(rows), -1, attention.head_dim)
    key_heads: int = heads.shape[1] // (attention.num_key_value_groups + 2)
    queries, keys = heads[:, : -2 * key_heads], heads[:, -2 * key_heads : -key_heads]
    if hasattr(attention, "q_norm"):
        queries.copy_(_normed(queries, attention.q_norm))
        keys.copy_(_normed(keys, attention.k_norm))
    _turn(heads[:, :-key_heads], *angles)
    read = step.attend(
        attention.layer_idx,
        queries,
        heads[:, -2 * key_heads :].view(len(rows), 2, key_heads, -1),
        scale=attention.scaling,
        window=layer.window,
    )
    return read.flatten(1)


def _fed_forward(layer: _Layer, states: Tensor) -> Tensor:
    rows = _normed(states, layer.parts.post_attention_layernorm)
    gate = functional.silu(layer.gate(rows), inplace=True)
    return layer.down.plus(layer.up.times(rows, gate), states)


def _normed(rows: Tensor, norm: Any) -> Tensor:
    return functional.rms_norm(rows, norm.weight.shape, norm.weight, norm.variance_epsilon)


def _signed(cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Both of rows x 1 x size, from 1 x rows x size; for `_turn`."""
    half = sin.shape[-1] // 2
    return cos[0][:, None], torch.cat((-sin[0, :, None, :half], sin[0, :, None, half:]), -1)


def _turn(heads: Tensor, cos: Tensor, sin: Tensor) -> None:
    """Rotary positions, in place: as `apply_rotary_pos_emb` of transformers, with signs in `sin`.

    Not in one fused operation: its bits would depend on where a number lies in a vector.
    """
    swapped = heads.roll(heads.shape[-1] // 2, -1)
    heads.mul_(cos).add_(swapped.mul_(sin))
