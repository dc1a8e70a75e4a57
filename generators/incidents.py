"""What goes wrong in a world on purpose, so that people can train on it.

Before an incident the world is the one without it, to the byte, and so is ever after what does not concern its creator.
"""

from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator


class _Incident(BaseModel):
    """Befalls a creator in [start_ms, end_ms), UTC ms."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    creator_id: str
    start_ms: int = Field(ge=0)
    end_ms: int

    @model_validator(mode="after")
    def _ends_after_its_start(self) -> Self:
        if self.end_ms <= self.start_ms:
            raise ValueError("an incident ends after its start")
        return self


class CpmSpike(_Incident):
    """Rivals outbid the campaigns of a creator: an impression costs ``price`` times as much, and a part ``won`` of the
    auctions that were won still is. Budgets are paced as ever, so who spends all of a budget is shown less."""

    kind: Literal["cpm-spike"] = "cpm-spike"
    price: float = Field(5.0, ge=1, le=100)
    won: float = Field(0.8, gt=0, le=1)


class ChurnWave(_Incident):
    """Something offends the fans of a creator: of those who follow and were there of late, a part ``share`` unfollows,
    most of them soon, and does nothing with the creator any more."""

    kind: Literal["churn-wave"] = "churn-wave"
    share: float = Field(0.3, gt=0, le=1)


Incident = Annotated[CpmSpike | ChurnWave, Field(discriminator="kind")]
"""Any of them."""
