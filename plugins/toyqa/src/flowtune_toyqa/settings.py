"""The settings of ToyQA: ``[tasks.toyqa]`` in flowtune.toml."""

from __future__ import annotations

from pydantic import BaseModel, ConfigDict, Field, model_validator


class ToyQASettings(BaseModel):
    """How hard the questions are, how many there are, and how long the flow may look."""

    model_config = ConfigDict(extra="forbid", validate_default=True, frozen=True)

    hops: int = Field(2, ge=2, le=12, description="Facts that a question needs, one after another.")
    documents: int = Field(
        0,
        ge=0,
        le=100,
        description="Documents of a question, those it needs included; 0 is two a hop.",
    )
    max_retrievals: int = Field(
        0, ge=0, description="Documents that the flow may retrieve; 0 is one more than the hops."
    )
    seed: int = Field(0, description="Another seed is another world.")
    train_size: int = Field(400, ge=1, description="Examples of the split 'train'.")
    test_size: int = Field(200, ge=1, description="Examples of the split 'test'.")

    @property
    def documents_shown(self) -> int:
        """How many documents each example has."""
        return self.documents or 2 * self.hops

    @property
    def retrievals(self) -> int:
        """How many documents the flow retrieves at most: never more than there are."""
        return min(self.max_retrievals or self.hops + 1, self.documents_shown)

    @model_validator(mode="after")
    def _enough_documents(self) -> ToyQASettings:
        if self.documents_shown < self.hops:
            raise ValueError(
                f"documents is {self.documents} and hops is {self.hops}: a question needs one"
                " document a hop, so documents must be at least hops (or 0 for two a hop)"
            )
        return self
