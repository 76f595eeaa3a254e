"""What the stages hand to each other: immutable, validated, and written as JSON."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Role = Literal["system", "user", "assistant"]
Kind = Literal["harmful", "benign", "borderline"]
Finish = Literal["stop", "length"]


class Record(BaseModel):
    """Base of all records: frozen, and strict about what it is made of."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Message(Record):
    """One turn of a dialogue."""

    role: Role
    content: str


Dialogue = tuple[Message, ...]
"""Turns in order; a system turn, if any, comes first."""


def user(content: str) -> Message:
    """A turn of the user."""
    return Message(role="user", content=content)


def assistant(content: str) -> Message:
    """A turn of the model."""
    return Message(role="assistant", content=content)


def system(content: str) -> Message:
    """A system turn."""
    return Message(role="system", content=content)


def with_system_turn(dialogue: Dialogue, text: str | None) -> Dialogue:
    """The dialogue with a system turn before it, unless it has one or `text` is None."""
    if text is None or dialogue[0].role == "system":
        return dialogue
    return (system(text), *dialogue)


def answerable(dialogue: Dialogue) -> Dialogue:
    """The dialogue, if it is one that a model can answer.

    Raises:
        ValueError: The turns do not alternate, or the last is not the user's.
    """
    roles = [message.role for message in dialogue]
    spoken = roles[1:] if roles[:1] == ["system"] else roles
    expected = ["user" if i % 2 == 0 else "assistant" for i in range(len(spoken))]
    if not spoken or spoken != expected or spoken[-1] != "user":
        raise ValueError(
            "messages must be an optional system turn, then user and assistant in turn, "
            f"ending with user; got {', '.join(roles)}"
        )
    return dialogue


def content_hash(value: Any) -> str:
    """A stable 16-digit hash of a JSON-like value: what ids and journal keys are made of."""
    text = json.dumps(value, sort_keys=True, ensure_ascii=False, separators=(",", ":"))
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()[:16]


class Prompt(Record):
    """What the user asks: one or more turns, the last of them the user's."""

    id: str = Field(min_length=1)
    messages: Dialogue = Field(min_length=1)
    kind: Kind = "harmful"
    tags: tuple[str, ...] = ()
    expects: tuple[str, ...] = ()
    """Regular expressions; a helpful answer matches all of them."""

    @model_validator(mode="after")
    def _turns_alternate(self) -> Prompt:
        answerable(self.messages)
        return self


class Sampling(Record):
    """How a model draws its answer."""

    temperature: float = Field(default=1.0, ge=0.0)
    """0 is greedy decoding."""
    top_p: float = Field(default=1.0, gt=0.0, le=1.0)
    top_k: int = Field(default=0, ge=0)
    """Draw from the likeliest `top_k` tokens only; 0: from all."""
    stop: tuple[str, ...] = ()
    """Texts that end the answer; they are not part of it."""
    max_new_tokens: int = Field(default=256, gt=0)


class Usage(Record):
    """Tokens that one call read and wrote."""

    prompt_tokens: int = 0
    completion_tokens: int = 0


class Completion(Record):
    """A model's answer to a dialogue."""

    text: str
    token_ids: tuple[int, ...] = ()
    """Sampled ids, the terminator included if it was sampled; empty where a backend hides them."""
    logprobs: tuple[float, ...] = ()
    """Natural log-probability of each sampled id, under the distribution it was drawn from."""
    finish: Finish
    usage: Usage = Usage()


RoundOutcome = Literal["revised", "no_fault", "screened", "inapplicable"]


class Round(Record):
    """One pass of critique and revision over a response.

    `inapplicable`: no principle speaks to the prompt. `screened`: no principle seemed broken, so
    nothing was asked. `no_fault`: the critique found nothing wrong. All three keep the response;
    `revision` is then the response itself.
    """

    number: int = Field(ge=1)
    outcome: RoundOutcome
    p_broken: Mapping[str, float] = {}
    """What screening saw, by principle id; empty where selection does not screen."""
    principle_ids: tuple[str, ...] = ()
    critique: str | None = None
    revision: str
    finish: Finish = "stop"
    """How the revision ended; `length` means it was cut off."""


class Revision(Record):
    """A prompt, the model's first response, and what critique and revision made of it."""

    prompt: Prompt
    response: Completion
    rounds: tuple[Round, ...]

    @property
    def final(self) -> str:
        """The response after the last round."""
        return self.rounds[-1].revision if self.rounds else self.response.text

    @property
    def finish(self) -> Finish:
        """How `final` ended: as the last revision did, or the response where none was written."""
        written: list[Finish] = [each.finish for each in self.rounds if each.outcome == "revised"]
        return written[-1] if written else self.response.finish


class Provenance(Record):
    """Where a training example comes from."""

    prompt_id: str
    kind: Kind
    round: int = Field(ge=0)
    """The round whose revision this is; 0 is the first response, kept as it was."""
    principle_ids: tuple[str, ...]
    seed: int
    model: str
    """Fingerprint of the model that wrote the completion."""
    constitution: str
    """Hash of the constitution it was written under."""


class Demonstration(Record):
    """One SFT example, in TRL's conversational prompt-completion form."""

    id: str
    prompt: Dialogue
    completion: Dialogue
    provenance: Provenance


class RevisionPair(Record):
    """Revised over initial response, in TRL's conversational preference form."""

    id: str
    prompt: Dialogue
    chosen: Dialogue
    rejected: Dialogue
    provenance: Provenance


class Comparison(Record):
    """Two responses to one prompt."""

    id: str
    prompt: Prompt
    first: str
    second: str
    cut_off: tuple[bool, bool] = (False, False)
    """Whether each response was ended by a limit on its length."""

    def swapped(self) -> Comparison:
        """The same responses in the other order."""
        return self.model_copy(
            update={
                "first": self.second,
                "second": self.first,
                "cut_off": (self.cut_off[1], self.cut_off[0]),
            }
        )


PreferenceSource = Literal["judge", "negative", "revision", "misplaced", "human"]
"""`judge`: two responses of one model to the prompt, which it compared. `negative`: compared too,
but one response was to another prompt. `revision`: a revision over what it revised. `misplaced`: a
revision over one of another prompt."""


class Preference(Record):
    """A verdict on a comparison: the probability that the first response is better."""

    comparison: Comparison
    source: PreferenceSource
    principle_ids: tuple[str, ...] = ()
    """What the judge was asked about; empty for helpfulness alone, and where nobody was asked."""
    p_first_shown_first: float = Field(ge=0.0, le=1.0)
    """The probability of `first` when it stood first; see `p_first_shown_second`."""
    p_first_shown_second: float = Field(ge=0.0, le=1.0)

    @property
    def p_first(self) -> float:
        """Probability that `first` is the better response, averaged over both orders."""
        return 0.5 * (self.p_first_shown_first + self.p_first_shown_second)

    def swapped(self) -> Preference:
        """The same verdict on the responses in the other order."""
        return self.model_copy(
            update={
                "comparison": self.comparison.swapped(),
                "p_first_shown_first": 1.0 - self.p_first_shown_second,
                "p_first_shown_second": 1.0 - self.p_first_shown_first,
            }
        )


class Origin(Record):
    """Where a preference comes from."""

    prompt_id: str
    kind: Kind
    tags: tuple[str, ...] = ()
    """Of the prompt."""
    source: PreferenceSource
    principle_ids: tuple[str, ...] = ()
    p_chosen_shown_first: float | None = None
    """The judge's probability of `chosen` when it stood first; None where no judge was asked."""
    p_chosen_shown_second: float | None = None
    cut_off: tuple[bool, bool] = (False, False)
    """Whether `chosen` and `rejected` were ended by a limit on their length."""
    seed: int
    policy: str
    """Fingerprint of the model that wrote the responses; empty where it is not known."""
    judge: str
    """Fingerprint of the model that chose; empty where none was asked."""
    constitution: str
    """Hash of the constitution."""


class PreferencePair(Record):
    """One preference in TRL's conversational form, with its soft label beside it."""

    id: str
    prompt: Dialogue
    chosen: Dialogue
    rejected: Dialogue
    p_chosen: float = Field(ge=0.5, le=1.0)
    provenance: Origin
