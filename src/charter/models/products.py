"""Products of a model's weights with the rows of a step, by the library that is best at them.

PyTorch multiplies float32 matrices by MKL. On processors that are not Intel's, oneDNN takes half
the time, and its bits depend neither on the number of rows, from two on, nor on the threads, nor
on whether the weights are laid out for it beforehand. Where a trial says otherwise, MKL stays.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, TypeGuard, cast

import psutil
import torch
from torch import Tensor, nn

_FEWEST_ROWS = 2
_PROBED_ROWS = (2, 3, 5, 16, 33)
_REFERENCE_ROWS = 64
_SHARE_OF_MEMORY = 0.1
"""Of what is free, for weights that are laid out a second time."""
_ANY_BATCH = 64

_onednn: Any = torch.ops.mkldnn  # pyright: ignore[reportUnknownMemberType]


class Products:
    """The linear layers of a model, multiplied by oneDNN where that keeps each row's bits."""

    def __init__(self, model: nn.Module) -> None:
        """Tries it with weights of each shape."""
        layers = [module for module in model.modules() if _is_plain(module)]
        shapes = {layer.weight.shape: layer for layer in layers}
        stable = {shape for shape, layer in shapes.items() if _keeps_bits(layer.weight)}
        self._layers = [layer for layer in layers if layer.weight.shape in stable]
        self._laid_out: dict[Tensor, Tensor] | None = None

    @property
    def used(self) -> bool:
        """Whether any layer is multiplied by oneDNN."""
        return bool(self._layers)

    def takes(self, layers: Iterable[nn.Linear]) -> bool:
        """Whether all of these are multiplied by oneDNN."""
        return set(layers) <= set(self._layers)

    def weights_changed(self) -> None:
        """Drop what was laid out."""
        self._laid_out = None

    @contextmanager
    def applied(self) -> Generator[None]:
        """The layers multiply this way meanwhile; training needs their own."""
        if self._laid_out is None:
            self._laid_out = self._lay_out()
        swapped: list[dict[str, Any]] = []
        for layer in self._layers:
            own = vars(layer)
            if "forward" not in own:  # else someone else's hook, which stays
                weight = self._laid_out.get(layer.weight, layer.weight)
                own["forward"] = partial(product, weight=weight, bias=layer.bias)
                swapped.append(own)
        try:
            yield
        finally:
            for own in swapped:
                del own["forward"]

    def _lay_out(self) -> dict[Tensor, Tensor]:
        """The weights as oneDNN likes them best, if there is room: the bits are the same."""
        if not has_room(self._layers):
            return {}
        weights = {layer.weight for layer in self._layers}
        return {weight: _laid_out(weight.detach()) for weight in weights}


@dataclass(frozen=True)
class Linear:
    """A weight and a bias to multiply rows by: at least two, each of one size."""

    weight: Tensor
    bias: Tensor | None

    @classmethod
    def joined(cls, *layers: nn.Linear) -> Linear:
        """Several layers as one that makes all that they make: a copy, as oneDNN likes it best."""
        biases = [
            bias for layer in layers if (bias := cast("Tensor | None", layer.bias)) is not None
        ]
        return cls(
            weight=_laid_out(torch.cat([layer.weight.detach() for layer in layers])),
            bias=torch.cat(biases) if biases else None,
        )

    def __call__(self, rows: Tensor) -> Tensor:
        """The product."""
        return _multiplied(rows, self.weight, self.bias)

    def plus(self, rows: Tensor, term: Tensor) -> Tensor:
        """The product, and a term added to it."""
        return _onednn._linear_pointwise.binary(rows, term, self.weight, self.bias, "add")

    def times(self, rows: Tensor, factor: Tensor) -> Tensor:
        """The product, multiplied by a factor number by number."""
        return _onednn._linear_pointwise.binary(rows, factor, self.weight, self.bias, "mul")


def has_room(layers: Iterable[nn.Linear]) -> bool:
    """Whether there is memory for a copy of these layers' weights."""
    needed = sum(weight.nbytes for weight in {layer.weight for layer in layers})
    return needed <= _SHARE_OF_MEMORY * psutil.virtual_memory().available


def product(rows: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (any x size) by a weight: one row is multiplied by other code, so it gets company."""
    if rows.numel() == rows.shape[-1]:
        pair = rows.expand(*rows.shape[:-2], _FEWEST_ROWS, -1)
        return _multiplied(pair, weight, bias)[..., :1, :]
    return _multiplied(rows, weight, bias)


def _multiplied(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _onednn._linear_pointwise(rows, weight, bias, "none", [], "")


def _laid_out(weight: Tensor) -> Tensor:
    reorder = cast("Callable[..., Tensor]", _onednn._reorder_linear_weight)
    return reorder(weight, _ANY_BATCH)


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )


def _keeps_bits(weight: Tensor) -> bool:
    """Whether a row's bits depend on nothing but the row and the part of the weight it meets.

    Not on the number of rows, nor on whether the weight is laid out, nor on what else it makes,
    nor on whether a term or factor waits for the product.
    """
    seeded, half = torch.Generator().manual_seed(0), len(weight) // 2
    rows = torch.randn(_REFERENCE_ROWS, weight.shape[1], generator=seeded)
    other = torch.randn(_REFERENCE_ROWS, len(weight), generator=seeded)
    try:
        laid_out = Linear(_laid_out(weight.detach()), None)
        many = laid_out(rows)
        few = [_multiplied(rows[:count], weight, None) for count in _PROBED_ROWS]
        part = _multiplied(rows, weight[:half], None)
        joined = laid_out.plus(rows, other), laid_out.times(rows, other)
    except (AttributeError, RuntimeError):  # a build without it
        return False
    return (
        all(torch.equal(some, many[: len(some)]) for some in few)
        and torch.equal(part, many[:, :half])
        and torch.equal(joined[0], many + other)
        and torch.equal(joined[1], many * other)
    )
