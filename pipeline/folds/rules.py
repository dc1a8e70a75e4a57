"""Rules: evaluated when the campaign log says that a window is closed; decisions, and what is done."""

from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import orjson
import polars as pl

from pipeline import campaign_log
from pipeline.bidding import bid, looked_at, steered
from pipeline.campaign_log import MEASURES, CampaignChange, RuleChange, Switch, campaign_key, partition_of
from pipeline.fold import Fold, Output
from pipeline.minutes import QUARTER_MS, Minutes
from pipeline.rules import (
    FRESH,
    Act,
    Decision,
    Entity,
    Evaluation,
    Key,
    Memory,
    Span,
    Sums,
    apply,
    due,
    entities,
    evaluate,
    span,
)
from schemas.quantities import MINUTE_MS
from schemas.rules import LONGEST_DAYS, Bidding, Campaign, Rule, sentence

ACTIONS = "budget_actions"
"""The table of what is done, and the Kafka topic of it."""
DECISIONS = "rule_decisions"
STATE = "rule_state"
"""The table that it is restored from."""
DAY_MS = 86_400_000
LEAP_MS = DAY_MS
"""Windows that closed longer before the newest one than this, when time leaps, are never evaluated."""
MINUTES_LEAP_MS = 60 * MINUTE_MS
"""The same of windows of minutes: there are too many to decide on all of a night's at once."""
FINE_MS = 3 * DAY_MS
"""How long minutes are held; windows of minutes are a day long at most. Then quarters of an hour."""
HELD_MS = (LONGEST_DAYS + 3) * DAY_MS
"""How long anything is held."""
PER_CLOSING = 1_000
"""What a closing costs of ``settle``'s limit, beside its decisions."""


class Source(NamedTuple):
    """How far the log has a partition of ``ad_events``: ``next`` offset, event time ``reached``, and ``oldest`` one
    that may still change a figure (UTC ms; None: none, or not known)."""

    next: int
    reached: int | None
    oldest: int | None


class Known(NamedTuple):
    """A rule of the log, and whether it is switched on."""

    rule: Rule
    enabled: bool


class Row(NamedTuple):
    """Key of a row of the state, as the table has it."""

    kind: str
    minute: int = 0
    entity: Key = Key("", "")
    rule_id: str = ""
    source: int = 0


class Rules(Fold):
    """Rules and bidding of the campaigns of one partition of the campaign log.

    A moment is closed once every partition of ``ad_events`` has reached it. Each whole minute that is closed is
    evaluated, with the figures, rules and campaigns that the log has by then; what comes later changes no decision.
    What is done is taken for granted: the next window finds the new budget.

    Campaigns are known from what people tell, or by their events alone: then they are active, and nothing is known of
    their budgets. Those that have ended are not evaluated, nor those that were never told and have had nothing in any
    window that a rule may look at.

    Decisions are made of many rows, so their flushes must not be torn: all of the state is stored with one insert,
    after the decisions. What is stored is then the state at some offset, whole, and all decisions up to there are
    stored: a replay passes those messages.
    """

    version: ClassVar[int] = 1
    order: ClassVar[tuple[str, ...]] = ("rule_changes", "campaign_changes", DECISIONS, ACTIONS, STATE)

    def __init__(self, database: str, partition: int, partitions: int) -> None:
        self._database = database
        self._partition = partition
        self._partitions = partitions
        self._waiting: deque[pl.DataFrame] = deque()
        self._closings: deque[int] = deque()
        self._at = (-1, 0)
        self._held = -1
        self._sources: dict[int, Source] = {}
        self._closed: int | None = None
        self._rules: dict[str, Known] = {}
        self._campaigns: dict[tuple[str, str], Campaign] = {}
        self._bidding: dict[Key, Bidding] = {}
        self._entities: dict[Key, Entity] = {}
        self._memories: dict[tuple[str, Key], Memory] = {}
        self._minutes: dict[Key, Minutes] = {}
        self._open: dict[int, dict[int, dict[Key, tuple[int, ...]]]] = {}
        self._forgotten = 0
        self._changed: dict[Row, int] = {}
        self._decisions: list[tuple[Decision, int, int]] = []
        self._changes: list[tuple[Rule, bool, str, int, int]] = []
        self._told: list[tuple[Campaign, str, int, int]] = []
        self._unsent: list[Output] = []

    def __len__(self) -> int:
        return sum(map(len, self._minutes.values()))

    def apply(self, rows: pl.DataFrame) -> None:
        if len(rows):
            self._waiting.extend(rows.partition_by("applied", maintain_order=True))

    def settle(self, limit: int) -> bool:
        while (self._closings or self._waiting) and limit > 0:
            if self._closings:
                limit -= PER_CLOSING + self._evaluate(self._closings.popleft())
                continue
            message = self._waiting.popleft()
            limit -= len(message)
            self._at = message["applied"][0], message["appended"][0]
            if self._at[0] > self._held:
                self._take_in(message)
        return not (self._closings or self._waiting)

    def outputs(self, start: int, next_offset: int, reached: int | None) -> list[Output]:
        unsent, self._unsent = self._unsent, []
        return unsent

    def take(self) -> dict[str, pl.DataFrame]:
        decisions, self._decisions = self._decisions, []
        changes, self._changes = self._changes, []
        told, self._told = self._told, []
        changed, self._changed = self._changed, {}
        acts = [each for each in decisions if each[0].outcome in ("fired", "clamped")]
        tables = {
            "rule_changes": _frame(map(_change_row, changes), _CHANGES),
            "campaign_changes": _frame(map(_told_row, told), _TOLD),
            DECISIONS: _frame((_decision_row(*each) for each in decisions), _DECISIONS),
            ACTIONS: _frame((_action_row(*each) for each in acts), _ACTIONS),
            STATE: _frame((self._state_row(row, applied) for row, applied in changed.items()), _STATE),
        }
        version = pl.lit(self.version, pl.UInt16).alias("fold_version")
        found = {}
        for table, rows in tables.items():
            if len(rows):
                found[table] = rows.with_columns(version) if table in (DECISIONS, ACTIONS, STATE) else rows
        self._forget()
        return found

    def restore_state(self, rows: pl.DataFrame, minutes: pl.DataFrame) -> None:
        """Takes the stored state.

        Args:
            rows: of the table, without minutes that no event can change any more; ``minute`` in UTC ms.
            minutes: all that are held, with those: ``platform``, ``campaign_id``, ``ad_group_id``, ``begin`` (UTC ms)
                and the sums ``MEASURES`` of all partitions of ``ad_events`` together.
        """
        if rows.is_empty():
            return
        self._held = int(rows["applied"].max())  # type: ignore[arg-type]
        for kind, minute, *names, rule_id, source, numbers, text in rows.select(
            "kind", "minute", "platform", "campaign_id", "ad_group_id", "rule_id", "source", "numbers", "text"
        ).iter_rows():
            entity = Key(*names)
            match kind:
                case "input":
                    self._sources[source] = Source(*numbers)
                case "closed":
                    self._closed = numbers[0]
                case "rule":
                    self._rules[rule_id] = Known(Rule.model_validate(orjson.loads(text)), bool(numbers[0]))
                case "campaign":
                    self._tell(Campaign.model_validate(orjson.loads(text)))
                case "memory":
                    armed, *rest = numbers
                    self._memories[rule_id, entity] = Memory(0, bool(armed), *rest)
                case "minute":
                    self._open.setdefault(source, {}).setdefault(minute, {})[entity] = tuple(numbers)
        # When each was evaluated last is not stored; it was no later than this.
        self._memories = {key: each._replace(evaluated=self._closed or 0) for key, each in self._memories.items()}
        # After the campaigns: these are as they were told, entities as they are.
        for *names, numbers, text in (
            rows.filter(pl.col("kind") == "entity")
            .select("platform", "campaign_id", "ad_group_id", "numbers", "text")
            .iter_rows()
        ):
            key = Key(*names)
            daily, total, price, target, created, _ = numbers
            found = orjson.loads(text)
            self._entities[key] = Entity(key, found["creator_id"], found["state"], daily, total, price, target, created)
        groups = ["platform", "campaign_id", "ad_group_id"]
        campaigns = minutes.group_by([*groups[:2], "begin"]).agg(pl.col(MEASURES).sum()).sort("begin")
        for frame, keys in ((minutes.sort("begin"), groups), (campaigns, groups[:2])):
            for name, own in frame.group_by(keys, maintain_order=True):
                held = self._minutes[Key(*map(str, name))] = Minutes()
                held.fill(own["begin"].to_list(), own.select(MEASURES).to_numpy())

    # What a message says.

    def _take_in(self, message: pl.DataFrame) -> None:
        kind = message["kind"][-1]
        if kind == "change":
            self._change(message["text"][-1])
            return
        source, next_offset, reached, oldest = message.select("source", "next", "reached", "oldest").row(-1)
        known = self._sources.get(source)
        if known is not None and next_offset < known.next:
            # Told before, by one that was further.
            return
        for platform, creator, campaign, group, minute, *sums in message[:-1].select(*campaign_log.FIGURES).iter_rows():
            closed = known is not None and known.oldest is not None and minute + MINUTE_MS <= known.oldest
            if not closed:
                self._count(source, Key(platform, campaign, group), creator, minute, tuple(sums))
        times = [each for each in (reached, known.reached if known is not None else None) if each is not None]
        bounds = [each for each in (oldest, known.oldest if known is not None else None) if each is not None]
        self._sources[source] = Source(next_offset, max(times, default=None), max(bounds, default=None))
        self._touch(Row("input", source=source))
        self._close()

    def _count(self, source: int, group: Key, creator: str, minute: int, sums: tuple[int, ...]) -> None:
        held = self._open.setdefault(source, {}).setdefault(minute, {})
        before = held.get(group)
        if before == sums:
            return
        held[group] = sums
        self._touch(Row("minute", minute, group, source=source))
        more = sums if before is None else tuple(now - then for now, then in zip(sums, before, strict=True))
        for key in (group, Key(*group[:2])):
            minutes = self._minutes.get(key)
            if minutes is None:
                minutes = self._minutes[key] = Minutes()
            minutes.add(minute, more)
            entity = self._entities.get(key)
            if entity is None:
                self._put(Entity(key, creator, created_at=minute))
            elif entity.created_at is None:
                self._put(replace(entity, created_at=minute))

    def _change(self, text: str) -> None:
        applied, appended = self._at
        match campaign_log.decode(text.encode()):
            case RuleChange(_, by, rules):
                for rule in rules:
                    self._rule(Known(rule, True), by)
            case Switch(_, by, rule_id, enabled):
                if rule_id in self._rules:
                    self._rule(self._rules[rule_id]._replace(enabled=enabled), by)
            case CampaignChange(_, by, campaigns):
                for campaign in campaigns:
                    if partition_of(campaign.platform, campaign.campaign_id, self._partitions) != self._partition:
                        continue
                    key = Key(campaign.platform, campaign.campaign_id)
                    before = self._campaigns.get(key[:2])
                    for group in before.ad_groups if before is not None else ():
                        # One that is listed no more is not told any more.
                        self._touch(Row("entity", entity=key._replace(ad_group_id=group.ad_group_id)))
                    self._tell(campaign)
                    self._touch(Row("campaign", entity=key))
                    for entity in entities([campaign]):
                        known = self._entities.get(entity.key)
                        if entity.created_at is None and known is not None:
                            entity = replace(entity, created_at=known.created_at)
                        self._put(entity)
                    self._told.append((campaign, by, applied, appended))

    def _rule(self, known: Known, by: str) -> None:
        before = self._rules.get(known.rule.id)
        if before is not None and _steps(before.rule) != _steps(known.rule):
            # What it changed today was something else, or the other way: that is no part of the daily cap.
            for key, memory in self._memories.items():
                if key[0] == known.rule.id and memory.base:
                    self._memories[key] = memory._replace(base=0, changed=0)
                    self._touch(Row("memory", entity=key[1], rule_id=key[0]))
        self._rules[known.rule.id] = known
        self._touch(Row("rule", rule_id=known.rule.id))
        self._changes.append((known.rule, known.enabled, by, *self._at))

    def _tell(self, campaign: Campaign) -> None:
        key = campaign.platform, campaign.campaign_id
        if key in self._campaigns:
            for each in steered([self._campaigns[key]]):
                del self._bidding[each]
        self._campaigns[key] = campaign
        self._bidding |= steered([campaign])

    def _put(self, entity: Entity) -> None:
        self._entities[entity.key] = entity
        self._touch(Row("entity", entity=entity.key))

    def _touch(self, row: Row) -> None:
        self._changed[row] = self._at[0]

    # What is closed.

    def _close(self) -> None:
        """Notes the moments that every source has reached now."""
        if len(self._sources) < self._partitions:
            return
        reached = [each.reached for each in self._sources.values() if each.reached is not None]
        if not reached:
            return
        closed = min(reached) // MINUTE_MS * MINUTE_MS
        if self._closed is not None:
            if closed <= self._closed:
                return
            self._closings.extend(range(max(self._closed, closed - LEAP_MS) + MINUTE_MS, closed + 1, MINUTE_MS))
        self._closed = closed
        self._touch(Row("closed"))

    def _forget(self) -> None:
        """Lets go of minutes that no event can change, and of the details of what is long ago."""
        for source, each in self._sources.items():
            held = self._open.get(source, {})
            for minute in [minute for minute in held if minute + MINUTE_MS <= (each.oldest or minute)]:
                del held[minute]
        if self._closed is not None and self._closed - self._forgotten >= QUARTER_MS:
            self._forgotten = self._closed
            before, forget = self._closed - FINE_MS, self._closed - HELD_MS
            for minutes in self._minutes.values():
                minutes.coarsen(before // QUARTER_MS * QUARTER_MS, forget)

    def _evaluate(self, closed_at: int) -> int:
        """Decides on the windows that close at a moment; how many decisions that were."""
        rules = [each.rule for each in self._rules.values() if each.enabled and self._due(each.rule, closed_at)]
        bidding = {key: each for key, each in self._bidding.items() if self._due(each, closed_at)}
        if not rules and not bidding:
            return 0
        everyone = list(self._entities.values())
        found = [each for each in everyone if self._lives(each, closed_at)]
        wanted = {(span(rule, closed_at), rule.level == "ad_group") for rule in rules}
        figures: dict[Span, dict[Key, Sums]] = {}
        for window, of_groups in wanted:
            keys = [each.key for each in found if bool(each.key.ad_group_id) == of_groups]
            figures.setdefault(window, {}).update(self._sums(window, keys))
        now = self._at[1]
        made = evaluate(rules, found, figures, self._memories, closed_at, now)
        count = self._keep(made)
        living = {each.key for each in found}
        if bidding := {key: each for key, each in bidding.items() if key in living}:
            # An ad group that has ended was decided by its own bid all the same.
            by_window = {
                window: self._sums(window, sorted(keys))
                for window, keys in looked_at(bidding, everyone, closed_at).items()
            }
            count += self._keep(bid(bidding, everyone, by_window, self._memories, closed_at, now, made.acts))
        return count

    def _due(self, rule: Rule | Bidding, closed_at: int) -> bool:
        """Whether a window of the rule that closes at a moment is decided on."""
        passed = closed_at < (self._closed or 0) - MINUTES_LEAP_MS and rule.window.last.unit == "minute"
        return not passed and due(rule, closed_at)

    def _lives(self, entity: Entity, closed_at: int) -> bool:
        if entity.state == "ended":
            return False
        if entity.key[:2] in self._campaigns and not self._unlisted(entity):
            return True
        minutes = self._minutes.get(entity.key)
        if minutes is None or minutes.last is None:
            return False
        # Whether minutes are put together by now depends on when rows were taken.
        return minutes.last // QUARTER_MS * QUARTER_MS >= closed_at - HELD_MS + DAY_MS

    def _unlisted(self, entity: Entity) -> bool:
        """Whether it is an ad group that its campaign, as it was told, does not list."""
        group = entity.key.ad_group_id
        return bool(group) and all(each.ad_group_id != group for each in self._campaigns[entity.key[:2]].ad_groups)

    def _sums(self, window: Span, keys: Iterable[Key]) -> dict[Key, Sums]:
        return {key: self._minutes[key].sums(window) for key in keys if key in self._minutes}

    def _keep(self, made: Evaluation) -> int:
        applied, appended = self._at
        for key, memory in made.memories.items():
            before = self._memories.get(key, FRESH)
            self._memories[key] = memory
            if memory[1:] != before[1:]:
                self._touch(Row("memory", entity=key[1], rule_id=key[0]))
        for act in made.acts:
            [after] = apply([self._entities[act.entity]], [act])
            self._put(after)
            self._unsent.append(Output(ACTIONS, campaign_key(*act.entity[:2]), action_record(act, appended)))
        self._decisions += [(decision, applied, appended) for decision in made.decisions]
        return len(made.decisions)

    def _state_row(self, row: Row, applied: int) -> tuple[Any, ...]:
        numbers: list[int | None] = []
        text = ""
        match row.kind:
            case "input":
                numbers = list(self._sources[row.source])
            case "closed":
                numbers = [self._closed]
            case "rule":
                known = self._rules[row.rule_id]
                numbers, text = [int(known.enabled)], campaign_log.text(known.rule)
            case "campaign":
                text = campaign_log.text(self._campaigns[row.entity[:2]])
            case "entity":
                each = self._entities[row.entity]
                told = int(each.key[:2] in self._campaigns and not self._unlisted(each))
                numbers = [
                    each.daily_budget, each.total_budget, each.bid, each.target_cpa, each.created_at, told
                ]  # fmt: skip
                text = orjson.dumps({"creator_id": each.creator_id, "state": each.state}).decode()
            case "memory":
                numbers = [int(value) for value in self._memories[row.rule_id, row.entity][1:]]
            case "minute":
                numbers = list(self._open[row.source][row.minute][row.entity])
        return (row.kind, row.minute, *row.entity, row.rule_id, row.source, numbers, text, applied)


def _steps(rule: Rule) -> tuple[str, bool]:
    """What a rule changes, and whether upwards."""
    return rule.action.do, (rule.action.by or 0) > 0


def action_record(act: Act, decided_at: int) -> bytes:
    """What is done, as a record of the Kafka topic. Amounts are micros, times UTC ms; ``id`` is the key of the
    decision: what is done under it is done once."""
    return orjson.dumps(
        {
            "id": act.key,
            "rule_id": act.rule_id,
            "rule_version": act.rule_version,
            "platform": act.entity.platform,
            "campaign_id": act.entity.campaign_id,
            "ad_group_id": act.entity.ad_group_id,
            "kind": act.kind,
            "before": act.before,
            "after": act.after,
            "closed_at": act.closed_at,
            "decided_at": decided_at,
        }
    )


_SECONDS = pl.Datetime("ms", "UTC")
_STATE = {
    "kind": pl.String,
    "minute": _SECONDS,
    "platform": pl.String,
    "campaign_id": pl.String,
    "ad_group_id": pl.String,
    "rule_id": pl.String,
    "source": pl.UInt16,
    "numbers": pl.List(pl.Int64),
    "text": pl.String,
    "applied": pl.Int64,
}
_ENTITY = {"platform": pl.String, "campaign_id": pl.String, "ad_group_id": pl.String, "closed_at": _SECONDS}
_DECISIONS = {
    "rule_id": pl.String,
    **_ENTITY,
    "rule_version": pl.UInt32,
    "mode": pl.String,
    "window_start": _SECONDS,
    "window_end": _SECONDS,
    "action": pl.String,
    "outcome": pl.String,
    "reason": pl.String,
    "metrics": pl.List(pl.String),
    "metric_values": pl.List(pl.Int64),
    "guards": pl.List(pl.String),
    "guard_wants": pl.List(pl.Int64),
    "guard_found": pl.List(pl.Int64),
    "guard_holds": pl.List(pl.UInt8),
    "before_micros": pl.Int64,
    "after_micros": pl.Int64,
    "outranked_by": pl.String,
    "decided_at": _SECONDS,
    "key": pl.String,
    "applied": pl.Int64,
}
_ACTIONS = {
    "key": pl.String,
    "rule_id": pl.String,
    "rule_version": pl.UInt32,
    **_ENTITY,
    "action": pl.String,
    "clamped_by": pl.String,
    "before_micros": pl.Int64,
    "after_micros": pl.Int64,
    "decided_at": _SECONDS,
    "applied": pl.Int64,
}
_CHANGES = {
    "rule_id": pl.String,
    "version": pl.UInt32,
    "name": pl.String,
    "owner": pl.String,
    "mode": pl.String,
    "level": pl.String,
    "enabled": pl.UInt8,
    "sentence": pl.String,
    "text": pl.String,
    "changed_by": pl.String,
    "changed_at": _SECONDS,
    "applied": pl.Int64,
}
_TOLD = {
    "platform": pl.String,
    "campaign_id": pl.String,
    "text": pl.String,
    "changed_by": pl.String,
    "changed_at": _SECONDS,
    "applied": pl.Int64,
}


def _frame(rows: Iterable[tuple[Any, ...]], schema: Mapping[str, Any]) -> pl.DataFrame:
    """Rows, with times in UTC ms."""
    held = {name: pl.Int64 if kind == _SECONDS else kind for name, kind in schema.items()}
    found = pl.DataFrame(list(rows), schema=held, orient="row")
    return found.with_columns(pl.col(name).cast(_SECONDS) for name, kind in schema.items() if kind == _SECONDS)


def _decision_row(each: Decision, applied: int, appended: int) -> tuple[Any, ...]:
    return (
        each.rule_id,
        *each.entity,
        each.closed_at,
        each.rule_version,
        each.mode,
        each.window.start,
        each.window.end,
        each.kind,
        each.outcome,
        each.reason,
        list(each.figures),
        list(each.figures.values()),
        [guard.name for guard in each.guards],
        [guard.wants for guard in each.guards],
        [guard.found for guard in each.guards],
        [int(guard.holds) for guard in each.guards],
        each.before,
        each.after,
        each.by,
        appended,
        each.key,
        applied,
    )


def _action_row(each: Decision, applied: int, appended: int) -> tuple[Any, ...]:
    return (
        each.key,
        each.rule_id,
        each.rule_version,
        *each.entity,
        each.closed_at,
        each.kind,
        each.reason,
        each.before,
        each.after,
        appended,
        applied,
    )


def _change_row(change: tuple[Rule, bool, str, int, int]) -> tuple[Any, ...]:
    rule, enabled, by, applied, appended = change
    return (
        rule.id,
        rule.version,
        rule.name,
        rule.owner,
        rule.mode,
        rule.level,
        int(enabled),
        sentence(rule),
        campaign_log.text(rule),
        by,
        appended,
        applied,
    )


def _told_row(told: tuple[Campaign, str, int, int]) -> tuple[Any, ...]:
    campaign, by, applied, appended = told
    return (campaign.platform, campaign.campaign_id, campaign_log.text(campaign), by, appended, applied)
