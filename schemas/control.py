"""Control records: what people set and the pipeline obeys. Versioned: a higher version replaces a lower one."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field

from schemas.events import Id, Label, Micros, Platform


class Control(BaseModel):
    """What every control record carries."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    version: Annotated[int, Field(ge=1)] = Field(description="Raised by one at every change")
    changed_at: Annotated[int, Field(ge=0)] = Field(description="UTC milliseconds")
    changed_by: Label = Field(description="Who changed it")


class Campaign(Control):
    """An advertising campaign: what it is for and how much it may spend."""

    campaign_id: Id = Field(description="Campaign")
    name: Label = Field(description="Name that people read")
    platform: Platform = Field(description="Platform it runs on")
    creator_id: Id = Field(description="Creator it advertises")
    goal: Literal["follow", "order", "lead", "play"] = Field(description="Conversion it is bought for")
    state: Literal["active", "paused", "ended"] = Field(description="Whether it may spend")
    bid_micros: Micros = Field(description="Bid, millionths of a yuan")
    daily_budget_micros: Micros = Field(description="Most to spend a local day, millionths of a yuan")
    total_budget_micros: Micros = Field(description="Most to spend in all, millionths of a yuan")
    target_cpa_micros: Micros | None = Field(None, description="Cost per conversion to aim at, millionths of a yuan")


class Condition(BaseModel):
    """One comparison: a metric with a value, or with another metric times a factor."""

    model_config = ConfigDict(strict=True, extra="forbid", frozen=True)

    metric: Label = Field(description="Left side, a metric of the window")
    operator: Literal["<", "<=", ">", ">=", "==", "!="] = Field(description="How they are compared")
    value: int | None = Field(None, description="Right side: micros for money, millionths for ratios, else a count")
    other_metric: Label | None = Field(None, description="Right side: another metric of the same window")


class Rule(Control):
    """A budget rule. All groups of conditions must hold; within a group any one is enough."""

    rule_id: Id = Field(description="Rule")
    name: Label = Field(description="Name that people read")
    owner: Label = Field(description="Who answers for it")
    mode: Literal["dry_run", "notify", "act"] = Field("dry_run", description="What a firing may do")
    enabled: bool = Field(True, description="Whether it is evaluated")
    level: Literal["campaign", "ad_group"] = Field(description="What it is evaluated for")
    scope: dict[Label, list[Label]] = Field(default_factory=dict, description="Entities it applies to; empty: all")
    conditions: list[list[Condition]] = Field(description="All groups, any condition of a group")
    window_minutes: Annotated[int, Field(ge=1, le=43_200)] = Field(description="Length of the closed window")
    skip_newest_minutes: Annotated[int, Field(ge=0, le=10_080)] = Field(0, description="Left out at the window's end")
    action: Literal["raise_budget", "lower_budget", "pause", "resume", "notify"] = Field(description="What it does")
    step_percent: Annotated[int, Field(ge=1, le=100)] | None = Field(None, description="Size of a budget step, percent")
    floor_micros: Micros | None = Field(None, description="Lowest daily budget it may set")
    ceiling_micros: Micros | None = Field(None, description="Highest daily budget it may set")
    cooldown_minutes: Annotated[int, Field(ge=0)] = Field(60, description="Rest after a firing, per entity")
    max_per_day: Annotated[int, Field(ge=1)] = Field(3, description="Most firings per entity and local day")
    min_impressions: Annotated[int, Field(ge=0)] = Field(0, description="Guard: impressions in the window")
    min_spend_micros: Micros = Field(0, description="Guard: spend in the window")
    min_conversions: Annotated[int, Field(ge=0)] = Field(0, description="Guard: conversions in the window")
