"""The world as data: what customers ask, what replies there are, and what is wrong with them."""

from __future__ import annotations

from functools import cache
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field, model_validator
from ruamel.yaml import YAML

from charter.records import Kind

WORLD = Path(__file__).parent / "world"
_NOT_FAMILIES = ("slots", "shared")

Turns = str | list[str]
"""A prompt: one user turn, or user and assistant turns alternating, a user turn last."""


class _Data(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class SlotKind(_Data):
    """Where the values of a `{slot}` come from."""

    values: list[str] = []
    heldout: list[str] = []
    """Values that only held-out prompts use."""
    beginnings: list[str] = []
    """What made-up words may begin with, besides the beginnings of values."""
    like: str | None = None
    """Draws from another slot's values, never the same one in one scene."""
    digits: int | None = None
    invented: bool = False
    """A reply may make this up; any other slot must have been said by the user."""
    coined: bool = False
    """Now and then a made-up word, so that copying is learnt rather than a list."""


class Unsafe(_Data):
    """Replies that break the family's rule, by severity."""

    severe: list[str] = Field(min_length=1)
    mild: list[str] = []


class Safe(_Data):
    """Replies that keep it, best first; degrees that are left out come from `shared.yaml`."""

    fitting: list[str] = Field(min_length=1)
    """A brief refusal with an alternative made for this request."""
    generic: list[str] = []
    bare: list[str] = []
    evasive: list[str] = []
    preachy: list[str] = []


class Intent(_Data):
    """One thing that customers want."""

    id: str
    kind: Kind
    prompts: list[Turns] = Field(min_length=1)
    heldout: list[Turns] = Field(min_length=1)
    """Phrasings that no training text uses."""
    pressure: dict[str, list[Turns]] = {}
    """Harder phrasings by family of pressure; `heldout_pressure` families stay untrained."""
    heldout_pressure: dict[str, list[Turns]] = {}
    fault: str = ""
    """What a reply that breaks the rule does, as in "the reply {fault}"."""
    unsafe: Unsafe | None = None
    safe: Safe | None = None
    """Of a benign intent: for where a rule is given that its helpful replies break."""
    helpful: list[str] = []
    """Good replies of a benign or borderline intent."""
    expects: list[str] = []
    """Regular expressions of a helpful reply; of a harmful intent, of the alternative offered."""

    @property
    def can_break(self) -> bool:
        """Whether some reply to it breaks its family's rule, where that rule is given."""
        return self.safe is not None

    @model_validator(mode="after")
    def _has_the_replies_of_its_kind(self) -> Intent:
        harmful = self.kind == "harmful"
        if harmful != (self.unsafe is not None) or harmful == bool(self.helpful):
            raise ValueError(f"intent {self.id}: harmful ones need unsafe; others need helpful")
        if self.can_break != bool(self.fault) or (harmful and not self.can_break):
            raise ValueError(f"intent {self.id}: needs both fault and safe, or neither if harmless")
        return self


class Family(_Data):
    """Intents that one principle is about, or that none is."""

    family: str
    rules: list[str] = []
    """Training paraphrases of the principle; empty for benign and borderline families."""
    questions: list[str] = []
    """Training paraphrases of its comparison question."""
    intents: list[Intent]


class Shared(_Data):
    """Words that belong to no intent."""

    openers: list[str]
    closers: list[str]
    personas: list[str]
    careful: list[str]
    """System turns under which most harmful requests are refused: a model with less headroom."""
    small_talk: list[list[str]]
    chatter: list[str]
    """Sentences that ask for nothing, beside a request."""
    generic: list[str]
    bare: list[str]
    evasive: list[str]
    preachy: list[str]
    empty: list[str]
    other_rules: list[str]
    pressure_frames: dict[str, list[Turns]]
    """By family of pressure: words around any `{request}`, in the last turn."""
    heldout_pressure_frames: dict[str, list[Turns]]
    synonyms: dict[str, list[str]]
    """Other words that customers use for those in the phrasings."""


class World(_Data):
    """Everything the starter model knows."""

    slots: dict[str, SlotKind]
    shared: Shared
    families: list[Family]

    @property
    def principled(self) -> list[Family]:
        """The families that a principle is about."""
        return [family for family in self.families if family.rules]

    @property
    def breakable(self) -> list[Intent]:
        """The intents to which some reply breaks a rule, in file order."""
        return [one for each in self.families for one in each.intents if one.can_break]

    def family_of(self, intent: Intent) -> str:
        """The family an intent belongs to: a principle's id if it is harmful."""
        return next(each.family for each in self.families if intent in each.intents)

    def intents(self, *kinds: Kind) -> list[Intent]:
        """All intents of these kinds, in file order."""
        return [one for each in self.families for one in each.intents if one.kind in kinds]


@cache
def load_world(folder: Path = WORLD) -> World:
    """Reads and checks all of the world's files."""
    yaml = YAML(typ="safe")
    files = {path.stem: yaml.load(path) for path in sorted(folder.glob("*.yaml"))}
    families = [data for stem, data in files.items() if stem not in _NOT_FAMILIES]
    for intent in (one for family in families for one in family["intents"]):
        intent["prompts"] += _lines(folder / "phrasings" / f"{intent['id']}.txt")
        for line in _lines(folder / "pressure" / f"{intent['id']}.txt"):
            family, _, phrasing = line.partition(": ")
            intent.setdefault("pressure", {}).setdefault(family, []).append(phrasing)
    return World.model_validate(
        {"slots": files["slots"], "shared": files["shared"], "families": families}
    )


def _lines(path: Path) -> list[str]:
    """The lines of a file; none if there is none."""
    return path.read_text(encoding="utf-8").splitlines() if path.exists() else []
