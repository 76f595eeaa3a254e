"""charter, but that its Adam takes no long step for what is only rounding.

Adam's first step is as long for a slope of rounding's size as for any other, so two trainings that
sum in another order part ways in the weights whose slope is nearly nothing: what both responses of
a pair have in common cancels but for rounding. With a larger epsilon, weights differ by as little
as slopes do, and two runs can be held to each other closely.
"""

from functools import partial

from torch.optim import AdamW

from charter.cli import main
from charter.learning import learner

EPSILON = 1e-3
"""Far above rounding, about 1e-8 of slopes whose norm is clipped at 1."""

if __name__ == "__main__":
    learner.AdamW = partial(AdamW, eps=EPSILON)
    main()
