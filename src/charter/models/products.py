"""Products of a model's weights with the rows of a step, by the library that is best at them.

PyTorch multiplies float32 matrices by MKL. On processors that are not Intel's, oneDNN takes half
the time, and its bits depend neither on the number of rows, from two on, nor on the threads, nor
on whether the weights are laid out for it beforehand. Where a trial says otherwise, MKL stays.
"""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
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
        weights = {layer.weight for layer in self._layers}
        needed = sum(weight.nbytes for weight in weights)
        if needed > _SHARE_OF_MEMORY * psutil.virtual_memory().available:
            return {}
        reorder = cast("Callable[..., Tensor]", _onednn._reorder_linear_weight)
        return {weight: reorder(weight.detach(), _ANY_BATCH) for weight in weights}


def product(rows: Tensor, *, weight: Tensor, bias: Tensor | None) -> Tensor:
    """Rows (any x size) by a weight: one row is multiplied by other code, so it gets company."""
    if rows.numel() == rows.shape[-1]:
        pair = rows.expand(*rows.shape[:-2], _FEWEST_ROWS, -1)
        return _multiplied(pair, weight, bias)[..., :1, :]
    return _multiplied(rows, weight, bias)


def _multiplied(rows: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    return _onednn._linear_pointwise(rows, weight, bias, "none", [], "")


def _is_plain(module: nn.Module) -> TypeGuard[nn.Linear]:
    return (
        type(module) is nn.Linear
        and module.weight.device.type == "cpu"
        and module.weight.dtype == torch.float32
        and torch.backends.mkldnn.is_available()
    )


def _keeps_bits(weight: Tensor) -> bool:
    """Whether a row of few has the bits of a row of many, laid out or not."""
    seeded = torch.Generator().manual_seed(0)
    rows = torch.randn(_REFERENCE_ROWS, weight.shape[1], generator=seeded)
    try:
        many = _multiplied(rows, _onednn._reorder_linear_weight(weight, _ANY_BATCH), None)
        few = [_multiplied(rows[:count], weight, None) for count in _PROBED_ROWS]
    except (AttributeError, RuntimeError):  # a build without it
        return False
    return all(torch.equal(part, many[: len(part)]) for part in few)
