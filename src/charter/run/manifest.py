"""What a run was made from and what its stages did with their records: `manifest.json`."""

from __future__ import annotations

from collections.abc import Mapping

from pydantic import ConfigDict, Field, model_validator

from charter.records import Record


class Tally(Record):
    """What became of a stage's records; the form of its row in the manifest."""

    model_config = ConfigDict(
        validate_by_name=True, validate_by_alias=True, serialize_by_alias=True
    )

    entered: int = Field(ge=0, validation_alias="in", serialization_alias="in")
    done: int = Field(default=0, ge=0)
    failed: int = Field(default=0, ge=0)
    filtered: int = Field(default=0, ge=0)
    """Records that were finished but yield nothing."""
    reasons: Mapping[str, int] = {}
    """How many records failed or were filtered, by reason; one reason each."""
    seconds: float = Field(default=0.0, ge=0.0)
    """Of the session that finished the stage."""
    calls: int = Field(default=0, ge=0)
    """Of models, in all sessions; what came from a journal is not counted again."""
    tokens: int = Field(default=0, ge=0)
    """Read and written by these calls."""

    @model_validator(mode="after")
    def _balances(self) -> Tally:
        if self.entered != self.done + self.failed + self.filtered:
            raise ValueError(f"in = done + failed + filtered does not hold for {self!r}")
        if sum(self.reasons.values()) != self.failed + self.filtered:
            raise ValueError(f"not exactly one reason per failed or filtered record in {self!r}")
        return self

    def filtering(self, reasons: Mapping[str, int]) -> Tally:
        """The tally after so many done records were filtered, by reason."""
        # Not `model_copy`, which would skip the check that the tally balances.
        return Tally.model_validate(
            {
                **self.model_dump(by_alias=False),
                "done": self.done - sum(reasons.values()),
                "filtered": self.filtered + sum(reasons.values()),
                "reasons": _sums(self.reasons, reasons),
            }
        )

    def followed_by(self, other: Tally) -> Tally:
        """The tally of a stage that went on with other records, which `other` accounts for.

        Its calls and tokens are the whole stage's already.
        """
        return Tally(
            entered=self.entered + other.entered,
            done=self.done + other.done,
            failed=self.failed + other.failed,
            filtered=self.filtered + other.filtered,
            reasons=_sums(self.reasons, other.reasons),
            seconds=round(self.seconds + other.seconds, 3),
            calls=other.calls,
            tokens=other.tokens,
        )


class Manifest(Record):
    """What a run was made from, and what its finished stages did."""

    versions: Mapping[str, str]
    hashes: Mapping[str, str]
    """Content of the input files, by the setting that names them."""
    seed: int
    stages: Mapping[str, Tally] = {}


def _sums(first: Mapping[str, int], second: Mapping[str, int]) -> dict[str, int]:
    return {name: first.get(name, 0) + second.get(name, 0) for name in sorted({*first, *second})}
