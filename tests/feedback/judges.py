"""Judges that answer by a function of what they are shown."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence

from charter.constitution import Constitution, Principle, PrincipleTest
from charter.records import Completion, Dialogue, Finish, Sampling

CONSTITUTION = Constitution(
    principles=(
        Principle(
            id="ssn",
            rule="Never ask for an SSN.",
            tests=(
                PrincipleTest(prompt="Verify me.", breaks="Your SSN?", keeps="I email a link."),
                PrincipleTest(prompt="Log me in.", breaks="SSN please.", keeps="Use the app."),
            ),
        ),
        Principle(id="kind", rule="Be kind."),
        Principle(id="code", rule="Never give out codes.", applies_when=("codes",)),
    )
)


class Weighing:
    """A model that weighs choices by `choose` and writes what `say` makes of a call."""

    fingerprint = "weighing"
    capacity = 8

    def __init__(
        self,
        choose: Callable[[str, Sequence[str]], Mapping[str, float]],
        say: Callable[[str, int], str] = lambda *_: "",
        finish: Finish = "stop",
    ) -> None:
        self.weigh, self.say, self.finish = choose, say, finish
        self.chosen: list[str] = []
        self.said: list[tuple[Dialogue, Sampling, int]] = []

    async def generate(self, dialogue: Dialogue, *, sampling: Sampling, seed: int) -> Completion:
        self.said.append((dialogue, sampling, seed))
        return Completion(text=self.say(dialogue[-1].content, seed), finish=self.finish)

    async def choose(self, dialogue: Dialogue, *, choices: Sequence[str]) -> dict[str, float]:
        text = "\n".join(turn.content for turn in dialogue)
        self.chosen.append(text)
        return dict(self.weigh(text, choices))

    async def aclose(self) -> None:
        pass


def logprobs(choices: Sequence[str], p: float) -> dict[str, float]:
    """Log-probabilities of two choices, the first of which has probability `p`."""
    return {
        choice: math.log(value) if value > 0 else -math.inf
        for choice, value in zip(choices, (p, 1.0 - p), strict=True)
    }


def shown(text: str) -> tuple[str, str]:
    """The two replies in a request to compare them, in order."""
    _, _, replies = text.partition("\n\n(A) ")
    first, _, rest = replies.partition("\n(B) ")
    return first, rest.partition("\n\n")[0]
