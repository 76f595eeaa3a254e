"""The configuration: one section per stage, every default stated here."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, cast

from pydantic import (
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    field_validator,
    model_validator,
)
from ruamel.yaml import YAML
from ruamel.yaml.error import YAMLError

from charter.documents import Document, read_yaml, validate
from charter.errors import ConfigError

Fraction = Annotated[float, Field(ge=0.0, le=1.0)]
Column = Literal["base", "base+rules", "base+revise", "sft"]


STARTER = "starter"
"""The source that names the embedded starter model."""


class Section(BaseModel):
    """Base of all sections: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class PromptSource(Section):
    """A file of prompts, and what holds for every prompt in it that does not say otherwise."""

    path: Path
    kind: Literal["harmful", "benign", "borderline"] = "harmful"
    tags: tuple[str, ...] = ()
    limit: int | None = Field(default=None, gt=0)
    """Read at most so many prompts, from the top."""


def _as_source(value: object) -> object:
    return {"path": value} if isinstance(value, str | Path) else value


def _as_sources(value: object) -> object:
    return cast("object", value) if isinstance(value, list | tuple) else (value,)


PromptSources = Annotated[
    tuple[Annotated[PromptSource, BeforeValidator(_as_source)], ...],
    BeforeValidator(_as_sources),
    Field(min_length=1),
]


class PromptsConfig(Section):
    """Where prompts come from: one file or several, each a path or a mapping."""

    train: PromptSources
    heldout: PromptSources
    """For evaluation only; nothing near-identical is trained on."""
    system: str | None = None
    """A system turn put before every prompt that has none, in every stage and column: the one that
    the model is deployed with."""

    @field_validator("system")
    @classmethod
    def _says_something(cls, text: str | None) -> str | None:
        if text is not None and not text.strip():
            raise ValueError("the text is empty; write the system turn, or leave the key out")
        return text


class ModelSource(Section):
    """A model to load."""

    source: str = Field(min_length=1)
    """`starter`, a directory, a hub id, or `scripted:FILE`."""
    revision: str | None = None
    """The hub's branch, tag or commit."""
    template: Literal["chatml"] | None = None
    """Chat template to use where the tokenizer has none."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """`auto`: float32 on CPU, bfloat16 on GPU."""
    capacity: int = Field(default=64, gt=0)
    """Calls answered at once."""


def _as_model(value: object) -> object:
    return {"source": value} if isinstance(value, str) else value


Source = Annotated[ModelSource, BeforeValidator(_as_model)]


class ModelsConfig(Section):
    """Which model plays which role. Roles that name the same source share one loaded model."""

    policy: Source = ModelSource(source=STARTER)
    critic: Source | None = None
    """Default: the policy's initial weights; so for the reviser and the judge."""
    reviser: Source | None = None
    judge: Source | None = None
    train_from: Source | None = None
    """What fine-tuning starts from; default: the policy."""


class GatesConfig(Section):
    """What may become a demonstration. Each gate can be turned off."""

    empty: bool = True
    truncated: bool = True
    """Stops a revision that was cut off by `max_new_tokens`."""
    max_words: int | None = Field(default=400, gt=0)
    leaked_wording: bool = True
    """Stops "Here is a revised response", "I apologise for my previous ..." and the like."""
    control_tokens: bool = True
    unchanged: bool = True
    """Stops a revision that equals the response it was to mend."""
    max_repetition: Fraction | None = 0.5
    """Largest share of repeated 3-grams of words."""
    near_duplicate: Fraction | None = None
    """Stops a demonstration whose prompt and completion are this similar (Jaccard, 3-grams of
    words) to an earlier one's."""


class ReviseConfig(Section):
    """Prompt -> response -> rounds of critique and revision."""

    rounds: int = Field(default=2, ge=1)
    selection: Literal["screen", "random", "all"] = "screen"
    """`screen`: draw a principle in proportion to P(broken), keep the response where none passes
    the threshold; `random`: draw by weight, as in the paper; `all`: take them in turn, from one
    drawn for each prompt."""
    threshold: Fraction | Literal["fit"] = "fit"
    """P(broken) from which a principle counts as broken; `fit`: on the principles' tests."""
    critique: bool = True
    """False: revise directly, without a critique."""
    system: str | None = None
    """A system turn put before every prompt that has none."""
    response_temperature: float = Field(default=1.0, ge=0.0)
    critique_temperature: float = Field(default=0.7, ge=0.0)
    revision_temperature: float = Field(default=0.7, ge=0.0)
    max_new_tokens: int = Field(default=256, gt=0)
    train_on: Literal["last", "all"] = "last"
    """Which rounds' revisions become demonstrations."""
    gates: GatesConfig = GatesConfig()
    max_failed: Fraction = 0.05
    """The stage fails when a larger share of its records failed."""


class LoraConfig(Section):
    """Train low-rank adapters instead of all weights."""

    rank: int = Field(default=16, gt=0)
    alpha: float = Field(default=32.0, gt=0.0)
    dropout: Fraction = 0.0
    targets: tuple[str, ...] | Literal["all-linear"] = "all-linear"


class FinetuneConfig(Section):
    """Demonstrations -> SFT model."""

    benign_share: Fraction | None = None
    """Share of benign demonstrations, drawn afterwards; None keeps what there is."""
    validation_share: Annotated[float, Field(gt=0.0, lt=1.0)] = 0.1
    near_duplicate: Fraction = 0.8
    """Prompts this similar (Jaccard, 3-grams of words) stay on one side of the split; training
    prompts this similar to a held-out one are dropped."""
    epochs: float = Field(default=3.0, gt=0.0)
    tokens_per_batch: int = Field(default=4096, gt=0)
    """Tokens that go through the model at once: what memory allows."""
    accumulate: int = Field(default=1, ge=1)
    """Batches per optimizer step."""
    max_length: int = Field(default=2048, gt=1)
    """Longer examples are left out and counted."""
    lr: Annotated[float, Field(gt=0.0)] | Literal["auto"] = "auto"
    """`auto`: by model size, and higher for LoRA."""
    warmup_share: Fraction = 0.05
    weight_decay: float = Field(default=0.0, ge=0.0)
    max_grad_norm: float = Field(default=1.0, gt=0.0)
    lora: LoraConfig | None = None
    system: str | None = None
    """A system turn put before every training prompt that has none."""
    validate_every: int | None = Field(default=None, gt=0)
    """Optimizer steps between validations; None: four times an epoch."""
    patience: int = Field(default=3, ge=1)
    """Validations without improvement before training stops."""
    min_delta: float = Field(default=0.001, ge=0.0)
    """Smallest fall of validation loss, in nats, that counts as an improvement."""
    checkpoint_every_s: float = Field(default=120.0, ge=0.0)


class EvaluateConfig(Section):
    """Columns of answers to held-out prompts, graded side by side."""

    constitution: Path | None = None
    """What is graded; default: the constitution that was trained on."""
    columns: tuple[Column, ...] = Field(
        default=("base", "base+rules", "base+revise", "sft"), min_length=1
    )
    samples: int = Field(default=4, ge=1)
    """Answers per prompt and column."""
    judged_samples: int = Field(default=1, ge=0)
    """How many of them the judge grades too."""
    temperature: float = Field(default=1.0, ge=0.0)
    max_new_tokens: int = Field(default=256, gt=0)
    system: str | None = None
    max_failed: Fraction = 0.05


class Config(Section):
    """A whole run."""

    seed: int = 0
    constitution: Path
    prompts: PromptsConfig
    models: ModelsConfig = ModelsConfig()
    revise: ReviseConfig = ReviseConfig()
    finetune: FinetuneConfig = FinetuneConfig()
    evaluate: EvaluateConfig = EvaluateConfig()

    @model_validator(mode="before")
    @classmethod
    def _empty_sections_are_defaults(cls, data: Any) -> Any:
        """A section whose keys are all commented out reads as null in YAML."""
        if not isinstance(data, dict):
            return data
        nothing: dict[str, Any] = {}
        given = cast("dict[str, Any]", data)
        return {key: nothing if value is None else value for key, value in given.items()}

    @model_validator(mode="after")
    def _system_turns_have_an_effect(self) -> Config:
        """A stage's own system turn is for prompts without one: `prompts.system` leaves none."""
        stages = {"revise": self.revise, "finetune": self.finetune, "evaluate": self.evaluate}
        idle = [f"`{name}.system`" for name, stage in stages.items() if stage.system is not None]
        if self.prompts.system is not None and idle:
            raise ValueError(
                f"{', '.join(idle)} would have no effect beside `prompts.system`, which all stages "
                "use; leave out the one or the other"
            )
        return self


def load_config(path: Path, *, overrides: Sequence[str] = ()) -> Config:
    """The configuration in a YAML file, with every path made absolute.

    Args:
        path: The file; paths in it are relative to its folder.
        overrides: `section.key=value` settings, as given to `--set`; the value is read as YAML,
            and paths in it are relative to the working directory.

    Raises:
        ConfigError: Lists every mistake with file, line, column and remedy.
    """
    document = read_yaml(path, error=ConfigError)
    config = _resolved(validate(document, Config, error=ConfigError), folder=path.parent)
    if not overrides:
        return config
    data = config.model_dump(mode="json")
    for override in overrides:
        _apply(data, override)
    settings = Document(Path("--set"), data)
    changed = validate(settings, Config, error=ConfigError)
    return _resolved(changed, folder=Path(), settled=config.models)


def _apply(data: dict[str, Any], override: str) -> None:
    """Sets one dotted key in nested mappings; the schema judges the result afterwards."""
    dotted, equals, text = override.partition("=")
    if not equals or not dotted:
        raise ConfigError(f"--set {override}: write it as section.key=value")
    try:
        value = YAML(typ="safe", pure=True).load(text)  # pyright: ignore[reportUnknownMemberType]
    except YAMLError as cause:
        raise ConfigError(f"--set {override}: the value is not valid YAML: {cause}") from cause
    *sections, key = dotted.split(".")
    for section in sections:
        if data.get(section) is None:
            data[section] = {}
        if not isinstance(data[section], dict):
            raise ConfigError(f"--set {override}: `{section}` has no keys below it")
        data = cast("dict[str, Any]", data[section])
    data[key] = value


def _resolved(config: Config, *, folder: Path, settled: ModelsConfig | None = None) -> Config:
    """The configuration with paths relative to `folder` made absolute.

    A model that `settled` has in the same role stays what it is: a hub id must not turn into a
    folder that happens to lie in another place.
    """

    def sources(items: tuple[PromptSource, ...]) -> tuple[PromptSource, ...]:
        return tuple(
            item.model_copy(update={"path": _absolute(item.path, folder)}) for item in items
        )

    graded = config.evaluate.constitution
    prompts, models = config.prompts, config.models

    def model(role: str) -> ModelSource | None:
        named: ModelSource | None = getattr(models, role)
        known: ModelSource | None = getattr(settled, role, None)
        if named is None or (known is not None and named.source == known.source):
            return named
        return _resolved_model(named, folder)

    return config.model_copy(
        update={
            "constitution": _absolute(config.constitution, folder),
            "prompts": prompts.model_copy(
                update={"train": sources(prompts.train), "heldout": sources(prompts.heldout)}
            ),
            "models": models.model_copy(
                update={role: model(role) for role in type(models).model_fields}
            ),
            "evaluate": config.evaluate.model_copy(
                update={"constitution": graded and _absolute(graded, folder)}
            ),
        }
    )


def _resolved_model(model: ModelSource, folder: Path) -> ModelSource:
    """A path is what starts like one or exists; anything else is a hub id."""
    scheme, colon, rest = model.source.partition(":")
    if colon and scheme == "scripted":
        return model.model_copy(update={"source": f"scripted:{_absolute(Path(rest), folder)}"})
    candidate = _absolute(Path(model.source), folder)
    looks_like_path = model.source.startswith((".", "/", "~"))
    if model.source != STARTER and (looks_like_path or candidate.is_dir()):
        return model.model_copy(update={"source": str(candidate)})
    return model


def _absolute(path: Path, folder: Path) -> Path:
    return Path(os.path.abspath(folder / path.expanduser()))  # noqa: PTH100 - keeps symbolic links
