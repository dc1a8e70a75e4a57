"""The scenarios: what fails, when, and what must hold then."""

import contextlib
import fnmatch
import functools
import itertools
import json
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

from kafka import TopicPartition
from kafka.structs import OffsetAndMetadata

from chaos import alerts
from chaos.compare import NOT_COMPARED
from chaos.feed import Feed, Mix
from chaos.fleet import (
    DEADLINE,
    EVENTS_ONLY,
    QUIET,
    SESSION_TIMEOUT,
    Fleet,
    WorkerProcess,
    Wrong,
    ask,
    database,
    ends,
    kill_service,
    until,
)
from chaos.oracle import ACCEPTED
from chaos.proxy import Proxy
from chaos.rules import Stall, Tear
from chaos.scene import Scene
from chaos.truth import Sent
from chaos.worker import POINTS
from chaos.zone import even_zone
from infra.connect import clickhouse_address, kafka_admin
from infra.settings import Settings
from infra.topics import consumer_group
from pipeline.app import AGENTS, READ
from pipeline.recovery import ARCHIVE
from pipeline.repair import repair
from schemas.topics import SOURCES

MIB = 1024 * 1024


def kills(scene: Scene) -> None:
    """kill -9 of two workers, each at its next named point or at a random moment, started again at once."""
    each, anywhere = scene.pick(1, 10), scene.pick(2, 20)
    nth = {
        "recovery": 8,
        "fold": 20,
        "letters": 6,
        "log": 10,
        "moves": 4,
        "figures": 10,
        "actions": 1,
        "part": 12,
        "state": 4,
        "decisions": 2,
        "rows": 6,
        "checkpoint": 6,
        "report": 10,
        "commit": 3,
    }
    schedule = [point for point in POINTS for _ in range(each)] + [""] * anywhere
    scene.random.shuffle(schedule)
    total = len(schedule)
    events = scene.pick(20_000, 1_000_000)
    feed = scene.load(10_000_000, 2 * scene.rate, scene.days(events * 6 // 10))
    with Fleet(scene.settings, scene.logs, idle_after=EVENTS_ONLY) as fleet:
        doomed: dict[int, _Doomed] = {}

        def start(index: int) -> None:
            if not schedule:
                fleet.start(index)
                return
            point = schedule.pop()
            doomed[index] = fate = _Doomed(point, scene.folder / f"mark-{total - len(schedule)}")
            if point:
                number = str(scene.random.randint(1, nth[point]))
                worker = fleet.start(index, "--die-at", point, "--nth", number, "--mark", str(fate.mark))
                worker.expected.add(-signal.SIGKILL)
            else:
                fate.after = scene.random.uniform(0.0, 6.0)
                fleet.start(index)

        # Of three workers and four partitions of a topic Faust may leave one without any: it would never come to a
        # point.
        for index in range(2):
            start(index)
        killed, last = 0, time.monotonic()
        while doomed:
            time.sleep(0.05)
            fleet.check()
            now = time.monotonic()
            # About as much is sent for each kill, and more where nobody gets to where he is to die.
            ahead = feed.sent > events * (killed + 2) / (total + 2) and now - last < 3
            feed.pause() if ahead else feed.resume()
            for index, fate in list(doomed.items()):
                if not fate.point and now - fate.began >= fate.after:
                    fleet.kill(index)
                elif fleet[index].alive:
                    if now - fate.began > DEADLINE:
                        raise Wrong(f"worker {index} never came to the point {fate.point}: {fleet[index].last_words()}")
                    continue
                elif fate.mark.read_text().strip() != fate.point:
                    raise Wrong(f"worker {index} died elsewhere than at {fate.point}: {fleet[index].last_words()}")
                scene.hit(f"kill: {POINTS[fate.point]}" if fate.point else "kill: at a random moment")
                killed, last = killed + 1, now
                del doomed[index]
                start(index)
        scene.enough(feed, events)
        fleet.begun()
        scene.finish(fleet)
    for point in POINTS:
        if scene.outcome.fault(f"kill: {POINTS[point]}").times < each:
            scene.outcome.failures.append(f"the point {point} was hit too rarely")


@dataclass
class _Doomed:
    """A worker that is to die: where (empty: ``after`` seconds), and the file in which it says so."""

    point: str
    mark: Path
    began: float = field(default_factory=time.monotonic)
    after: float = 0.0


MORE_TABLES = {
    ARCHIVE: (*(f"raw_{topic}" for topic in SOURCES), "dead_letters"),
    "lifecycle": ("fan_transitions", "fan_state"),
    "rules": ("rule_changes", "campaign_changes", "rule_decisions", "budget_actions", "rule_state"),
    "attribution": ("late_touches", "attributions"),
}
"""Tables of agents whose folds do not name them; one that is missing here fails ``dead-hand``."""

SELDOM = frozenset({"late_touches"})
"""Tables that no flush under load has rows for: a repair brings them, or a topic that was given up."""


def flush_tables(scene: Scene) -> dict[str, tuple[str, ...]]:
    """The tables that a flush of each agent may store rows in."""
    found = {}
    for agent in AGENTS:
        snapshots = [table.name for topic in agent.topics for table in agent.fold(scene.settings, topic, 0).tables]
        found[agent.name] = (*snapshots, *MORE_TABLES.get(agent.name, ()))
    return found


def dead_hand(scene: Scene) -> None:
    """An INSERT of a worker that is gone lands late: for each two tables of a flush, one landed, one held."""
    flushes = flush_tables(scene)
    pairs = [
        (agent, first, second)
        for agent, tables in flushes.items()
        for first, second in itertools.permutations((*tables, "checkpoints"), 2)
        if first != "checkpoints" and SELDOM.isdisjoint((first, second))
    ]
    scene.random.shuffle(pairs)
    twice = scene.pick(1, 8)
    frozen = scene.pick(0, 4)
    if scene.quick:
        pairs = [next(pair for pair in pairs if pair[0] == agent) for agent, tables in flushes.items() if tables]
    feed = scene.load(10_000_000, scene.rate, scene.days(scene.pick(8_000, 150_000)))
    with Proxy(lambda: clickhouse_address(scene.settings)) as proxy, Fleet(scene.settings, scene.logs) as fleet:
        speakers = (f"worker {number}" for number in itertools.count())
        speaker, index = "", 0

        def successor() -> None:
            nonlocal speaker
            speaker = next(speakers)
            fleet.start(index, clickhouse=proxy.open(speaker))
            fleet.begun(index)

        def tear(agent: str, first: str, second: str) -> Tear:
            rule = Tear(agent, frozenset(flushes[agent]), first, second)
            proxy.rule(speaker, rule)
            until(rule.torn.is_set, f"a flush with {first} and {second}", fleet.check)
            return rule

        def further() -> None:
            """Whether the successor only loads, or stores on before the hand lets go."""
            if scene.random.random() < 0.5:
                scene.recovered(fleet)

        def land(rule: Tear, fault: str) -> None:
            assert rule.held is not None
            answer = rule.held.land()
            if answer.status != 200:
                raise Wrong(f"ClickHouse did not take the late insert ({rule.name}): {answer.body[:300]!r}")
            scene.outcome.fault(fault).times += 1

        successor()
        for number, pair in enumerate(pairs):
            scene.say(f"dead hand {number + 1} of {len(pairs)}: {pair[1]} stored, {pair[2]} held")
            rule = tear(*pair)
            if number < frozen:
                hand = fleet.lose(index)
                hand.signal(signal.SIGSTOP)
                index = 1 - index
            else:
                fleet.kill(index)
            scene.hit("worker frozen" if number < frozen else "worker killed")
            successor()
            if number < frozen:
                until(functools.partial(_holds_all, scene, fleet[index]), "the successor to have all", fleet.check)
            further()
            land(rule, f"late insert: a second table of {pair[0]}")
            if number < frozen:
                # It learns that its insert is stored, and that others have its partitions. What it would store after
                # that is held for good, so it must not stay.
                hand.signal(signal.SIGCONT)
                time.sleep(2.0)
                hand.check()
                hand.signal(signal.SIGKILL)
                scene.recovered(fleet)
        for number in range(twice):
            scene.say(f"dead hands of two generations, {number + 1} of {twice}")
            rules = []
            for pair in scene.random.sample(pairs, 2):
                rules.append(tear(*pair))
                fleet.kill(index)
                scene.hit("worker killed")
                successor()
            further()
            scene.random.shuffle(rules)
            for rule in rules:
                land(rule, "late insert: two generations")
        scene.enough(feed, scene.pick(10_000, 200_000))
        scene.finish(fleet)
        tables = {table for seen in proxy.seen.values() for table in seen}
    named = {"checkpoints", *(table for tables in flushes.values() for table in tables)}
    if forgotten := {table for table in tables - named if not any(fnmatch.fnmatchcase(table, p) for p in NOT_COMPARED)}:
        scene.outcome.failures.append(f"workers store in other tables than were torn: {sorted(forgotten)}")
    scene.outcome.notes.append(f"{len(pairs)} ordered pairs of tables torn, {twice} times two generations")


def _holds_all(scene: Scene, worker: WorkerProcess) -> bool:
    return f": restored {len(READ) * scene.settings.partitions} partitions" in worker.output()


def rebalances(scene: Scene) -> None:
    """Workers come and go under load, 1, 3, 2, 4, 1: told to stop, and killed for good."""
    feed = scene.load(10_000_000, scene.rate)
    with Fleet(scene.settings, scene.logs) as fleet:
        numbers = itertools.count()
        fleet.start(next(numbers))
        fleet.begun()
        graceful = bool(scene.random.getrandbits(1))
        for _ in range(scene.pick(1, 5)):
            for count in scene.pick((3, 1), (3, 2, 4, 1)):
                before, began = len(fleet.indices), time.monotonic()
                while len(fleet.indices) < count:
                    fleet.start(next(numbers))
                while len(fleet.indices) > count:
                    index = scene.random.choice(fleet.indices)
                    fleet.begun(index)
                    fleet.stop(index) if graceful else fleet.kill(index)
                    graceful = not graceful
                # Where workers come, what counts is the time until all have got and moved on what they share.
                fleet.begun()
                scene.hit(f"{before} workers to {count}", began)
                scene.recovered(fleet)
        scene.enough(feed, scene.pick(10_000, 200_000))
        scene.finish(fleet)


def zombies(scene: Scene) -> None:
    """A worker frozen until others have taken over, then let go on: it must not spoil a figure."""
    feed = scene.load(10_000_000, scene.rate)
    for static in (True, False):
        with Fleet(scene.settings, scene.logs, static_membership=static) as fleet:
            count = scene.pick(2, 4)
            for index in range(count):
                fleet.start(index)
            fleet.begun()
            for _ in range(scene.pick(1, 10)):
                zombie = fleet[scene.random.choice(fleet.indices)]
                time.sleep(scene.random.uniform(0, 1))
                zombie.signal(signal.SIGSTOP)
                rest = [worker for worker in fleet.workers if worker is not zombie]
                others = _restored(rest)
                scene.hit(f"frozen, {'static' if static else 'dynamic'} members")
                until(functools.partial(_again, rest, others), "others to take over", fleet.check)
                scene.recovered(fleet)
                zombie.signal(signal.SIGCONT)
                until(
                    functools.partial(_again, [zombie], zombie.restored()),
                    f"worker {zombie.index} to join again",
                    fleet.check,
                )
            if static:
                fleet.stop()
            else:
                scene.enough(feed, scene.pick(10_000, 200_000))
                scene.finish(fleet)


def _restored(workers: list[WorkerProcess]) -> int:
    """How often these workers have restored partitions."""
    return sum(worker.restored() for worker in workers)


def _again(workers: list[WorkerProcess], former: int) -> bool:
    return _restored(workers) > former


def two_groups(scene: Scene) -> None:
    """Two whole fleets in groups of their own: every partition has two owners that write to one database."""
    feed = scene.load(10_000_000, scene.rate, scene.days(scene.pick(8_000, 150_000)))
    other = f"{scene.settings.topic_prefix}other"
    with Fleet(scene.settings, scene.logs) as one, Fleet(scene.settings, scene.logs, other) as two:
        for index in (0, 1):
            one.start(index)
            two.start(10 + index)
        one.begun()
        two.begun()
        for _ in range(scene.pick(1, 10)):
            for fleet in (one, two):
                index = scene.random.choice(fleet.indices)
                fleet.kill(index)
                fleet.start(index)
                scene.hit("kill in one of two groups")
            scene.recovered(one, two)
            one.begun()
            two.begun()
        scene.enough(feed, scene.pick(10_000, 200_000))
        scene.finish(one, two)
        scene.outcome.notes.append("two groups of two workers owned all partitions at the same time")


def kafka_killed(scene: Scene) -> None:
    """kill -9 of the broker under load, started again at once."""
    _service_killed(scene, "kafka", scene.pick(1, 10))


def clickhouse_killed(scene: Scene) -> None:
    """kill -9 of ClickHouse under load, started again at once."""
    _service_killed(scene, "clickhouse", scene.pick(2, 10))


def _service_killed(scene: Scene, service: str, times: int) -> None:
    feed = scene.load(10_000_000, scene.rate)
    # While there is no Kafka all is quiet, and a clock would close the minutes of the load before they come.
    idle = EVENTS_ONLY if service == "kafka" else QUIET
    with Fleet(scene.settings, scene.logs, idle_after=idle) as fleet:
        for index in (0, 1):
            fleet.start(index)
        fleet.begun()
        pids = [worker.pid for worker in fleet.workers]
        for _ in range(times):
            time.sleep(scene.random.uniform(0.5, 1.5))
            scene.say(f"kill -9 of {service}")
            kill_service(scene.stack, service)
            scene.stack.up()
            began, sent = time.monotonic(), feed.sent
            # The load has to find the broker again too: before that there is nothing to move on to.
            until(functools.partial(_sends, feed, sent), "load after the restart", fleet.check)
            scene.hit(f"{service} killed and started again", began)
            scene.recovered(fleet)
        scene.enough(feed, scene.pick(8000, 100_000))
        _same(scene, fleet, pids)
        scene.finish(fleet)


def _sends(feed: Feed, sent: int) -> bool:
    return feed.sent > sent


def _same(scene: Scene, fleet: Fleet, pids: list[int]) -> None:
    """Notes that the workers went on by themselves; a failure if one was replaced."""
    now = [worker.pid for worker in fleet.workers if worker.alive]
    if now == pids:
        scene.outcome.notes.append(f"no worker was started again: pids {', '.join(map(str, pids))} all the time")
    else:
        scene.outcome.failures.append(f"workers were {pids}, are {now}")


def clickhouse_away(scene: Scene) -> None:
    """ClickHouse is away for a while under load: workers wait in bounded memory and go on by themselves."""
    seconds = scene.pick(15.0, 60.0)
    feed = scene.load(10_000_000, scene.pick(1, 4) * scene.rate)
    with Fleet(scene.settings, scene.logs) as fleet:
        for index in (0, 1):
            fleet.start(index)
        fleet.begun()
        pids = [worker.pid for worker in fleet.workers]
        until(lambda: feed.sent >= 5000, "some load")
        before = _memory(fleet)
        kill_service(scene.stack, "clickhouse")
        away = time.monotonic()
        most = before
        scene.say(f"ClickHouse is away for {seconds:.0f} s")
        while time.monotonic() - away < seconds:
            time.sleep(0.25)
            fleet.check()
            most = [max(pair) for pair in zip(most, _memory(fleet), strict=True)]
        scene.stack.up()
        scene.hit(f"ClickHouse away for {seconds:.0f} s")
        scene.recovered(fleet)
        scene.enough(feed, scene.pick(15_000, 500_000))
        for each in fleet.workers:
            if "ClickHouse did not take" not in each.output():
                scene.outcome.failures.append(f"worker {each.index} did not notice that ClickHouse was away")
        _same(scene, fleet, pids)
        scene.drain(fleet)
        after = _memory(fleet)
        scene.finish(fleet)
    for number, (low, high, last) in enumerate(zip(before, most, after, strict=True)):
        scene.outcome.notes.append(
            f"worker {number}: {low / MIB:.0f} MiB before, at most {high / MIB:.0f} while away, {last / MIB:.0f} after"
        )
        if high - low > MEMORY_GROWTH:
            scene.outcome.failures.append(f"worker {number} grew by more than {MEMORY_GROWTH / MIB:.0f} MiB")


MEMORY_GROWTH = 600 * MIB
"""Bytes that a worker may grow by while ClickHouse is away."""


def _memory(fleet: Fleet) -> list[int]:
    return [worker.memory() for worker in fleet.workers]


def insert_stall(scene: Scene) -> None:
    """INSERTs hang for longer than the session timeout: no worker leaves the group, none is started again."""
    seconds = scene.pick(SESSION_TIMEOUT + 2, 60.0)
    feed = scene.load(10_000_000, scene.rate)
    with Proxy(lambda: clickhouse_address(scene.settings)) as proxy, Fleet(scene.settings, scene.logs) as fleet:
        stalls = [Stall(), Stall()]
        for index, stall in enumerate(stalls):
            fleet.start(index, clickhouse=proxy.open(f"worker {index}", stall))
        fleet.begun()
        scene.hit("workers started")
        scene.recovered(fleet)
        time.sleep(1.0)
        pids = [worker.pid for worker in fleet.workers]
        restored = [worker.restored() for worker in fleet.workers]
        members = _members(scene)
        for _ in range(scene.pick(1, 2)):
            for stall in stalls:
                stall.held.clear()
                stall.on = True
            until(lambda: all(stall.held for stall in stalls), "every worker to hang", fleet.check)
            scene.say(f"INSERTs hang for {seconds:.0f} s")
            time.sleep(seconds)
            held = sum(len(stall.held) for stall in stalls)
            for stall in stalls:
                stall.end()
            scene.hit(f"{held} INSERTs of two workers hang for {seconds:.0f} s")
            scene.recovered(fleet)
        _same(scene, fleet, pids)
        if [worker.restored() for worker in fleet.workers] != restored or _members(scene) != members:
            scene.outcome.failures.append("the group was rebalanced")
        else:
            scene.outcome.notes.append("no rebalance: the same members, no partition restored again")
        scene.enough(feed, scene.pick(8000, 100_000))
        scene.finish(fleet)


def _members(scene: Scene) -> dict[str, str]:
    """Members of the workers' group: what each has, by its id."""
    group = consumer_group(scene.settings)
    with contextlib.closing(kafka_admin(scene.settings)) as admin:
        found = admin.describe_groups([group])[group]
    return {str(each["member_id"]): str(each.get("member_assignment")) for each in found["members"]}


def bad_input(scene: Scene) -> None:
    """Repeats (also across restarts), late and out of order, an idle topic and partition; then repaired."""
    mix = Mix(idle_topics=frozenset({"gifts"}), idle_partitions=frozenset({3}), hours=30, lives=0.05)
    events = scene.pick(15_000, 300_000)
    mix = mix.model_copy(update={"history": events // 2})
    feed = scene.load(events, None if scene.quick else 3 * scene.rate, mix)
    with Fleet(scene.settings, scene.logs, fetch_bytes=65_536) as fleet:
        for index in (0, 1):
            fleet.start(index)
        fleet.begun()
        for _ in range(scene.pick(1, 5)):
            index = scene.random.choice(fleet.indices)
            fleet.kill(index)
            fleet.start(index)
            scene.hit("kill between an event and its repeat")
            scene.recovered(fleet)
            fleet.begun()
        scene.enough(feed, events)
        scene.drain(fleet)
        scene.judge()
        scene.say("repairing")
        days = _days(scene)
        done = repair(scene.settings, *days, patience=DEADLINE)
        scene.drain(fleet)
        scene.judge(repaired=True)
        again = repair(scene.settings, *days, patience=DEADLINE)
        if again != done:
            scene.outcome.failures.append("a second repair did something else than the first")
        scene.drain(fleet)
        scene.judge(repaired=True)
        late, repeats = sum(done.events.values()), sum(done.repeats.values())
        if not (late and repeats):
            scene.outcome.failures.append("there was nothing to repair")
        scene.outcome.notes.append(f"repaired twice: {late:,} late events taken in, {repeats:,} late repeats left out")
        fleet.stop()


def _days(scene: Scene) -> tuple[date, date]:
    """The first and the last day of anything stored, and a day more at both ends for the time zone."""
    every = " UNION ALL ".join(f"SELECT event_time FROM raw_{topic}" for topic in SOURCES)
    first, last = ask(scene.settings, f"SELECT toDate(min(event_time)), toDate(max(event_time)) FROM ({every})")[0]
    return first - timedelta(days=1), last + timedelta(days=1)


def poison(scene: Scene) -> None:
    """Malformed records of every kind, and an operator's constraint that makes ClickHouse refuse valid ones."""
    # Of more than some 20 refused rows a second workers cannot find all while they come.
    ending = "357"

    def refused(sent: Sent) -> bool:
        if sent.topic != "interactions" or sent.value is None or sent.label not in ACCEPTED:
            return False
        return str(json.loads(sent.value)["event_id"]).endswith(ending)

    scene.refused = refused
    with database(scene.settings) as client:
        client.command(f"ALTER TABLE raw_interactions ADD CONSTRAINT ending CHECK NOT endsWith(event_id, '{ending}')")
    feed = scene.load(10_000_000, scene.rate, scene.mix(malformed=0.05))
    with Fleet(scene.settings, scene.logs, dead_letter_limit=0.9) as fleet:
        for index in (0, 1):
            fleet.start(index)
        fleet.begun()
        for _ in range(scene.pick(1, 10)):
            index = scene.random.choice(fleet.indices)
            fleet.kill(index)
            fleet.start(index)
            scene.hit("kill among refused records")
            scene.recovered(fleet)
        scene.enough(feed, scene.pick(10_000, 200_000))
        scene.finish(fleet)
        letters = ask(scene.settings, "SELECT reason, count() FROM dead_letters FINAL GROUP BY reason ORDER BY reason")
        scene.outcome.notes.append("dead letters: " + ", ".join(f"{reason} {count}" for reason, count in letters))
        if "clickhouse" not in dict(letters):
            scene.outcome.failures.append("ClickHouse refused no record")


def told_alerts(scene: Scene) -> None:
    """Creators lose followers while workers are killed and a webhook fails, hangs and cuts off: who is told what?"""
    zone = even_zone(datetime.now(UTC))
    scene.settings = Settings(**{**scene.settings.model_dump(exclude_unset=True), "time_zone": zone})
    creators = [f"c{number:02}" for number in range(scene.pick(6, 40))]
    losing = frozenset(scene.random.sample(creators, len(creators) // 2))
    followers = alerts.Followers(creators, losing)
    hook = alerts.Hook(len(losing) * 2, scene.random)
    with (
        hook.serving(),
        Fleet(
            scene.settings,
            scene.logs,
            idle_after=1,
            alert_interval=0.3,
            alert_policy=alerts.POLICY,
            webhook_urls=hook.url,
        ) as fleet,
    ):
        for index in (0, 1):
            fleet.start(index)
        fleet.begun()
        scene.truth.append(followers.send(scene.settings))
        wanted = followers.wanted(scene.settings)
        for _ in range(scene.pick(4, 40)):
            time.sleep(scene.random.uniform(0.2, 3.0))
            index = scene.random.choice(fleet.indices)
            fleet.kill(index)
            fleet.start(index)
            scene.hit("kill while alerts are told")
        fleet.begun()
        # Of the topic and the webhook.
        everything = 2 * len(wanted)
        until(
            lambda: alerts.delivered(scene.settings) >= everything, "all to be told", fleet.check, deadline=5 * DEADLINE
        )
        scene.finish(fleet)
    scene.outcome.tables += alerts.compare(scene.settings, wanted, hook)
    scene.outcome.notes.append(
        f"{len(wanted)} alerts told; the webhook failed {hook.failed} times and took {len(hook.taken)} messages"
    )
    if not hook.failed:
        scene.outcome.failures.append("the webhook never failed")


def set_back(scene: Scene) -> None:
    """Checkpoints and Kafka's offsets set by hand: what is read again changes nothing."""
    events = scene.pick(5000, 100_000)
    feed = scene.load(10_000_000, None, scene.days(2 * events))
    with Fleet(scene.settings, scene.logs, idle_after=EVENTS_ONLY) as fleet:
        for index in (0, 1):
            fleet.start(index)
        _stored(fleet, feed, events)
        middle = ask(scene.settings, "SELECT * FROM checkpoints FINAL")
        feed.resume()
        cases: list[tuple[str, Callable[[], None]]] = [
            ("all checkpoints to the beginning", lambda: _checkpoints(scene, "1")),
            *(
                (f"checkpoints of {agent.name} to the beginning", lambda n=agent.name: _checkpoints(scene, "agent", n))
                for agent in AGENTS
            ),
            ("all checkpoints to the middle", lambda: _checkpoints(scene, "1", rows=middle)),
            *(
                (
                    f"checkpoints of {agent.name} to the middle",
                    lambda n=agent.name: _checkpoints(scene, "agent", n, middle),
                )
                for agent in AGENTS
            ),
            ("Kafka's offsets to the beginning", lambda: _offsets(scene, 0.0)),
            ("Kafka's offsets to the end", lambda: _offsets(scene, 1.0)),
        ]
        if scene.quick:
            cases = [cases[0], scene.random.choice(cases[1:])]
        for name, set_to in cases:
            _stored(fleet, feed, feed.sent + events // 4)
            fleet.stop()
            before = _fingerprints(scene)
            set_to()
            # No load while it is read again: nothing else can have changed the rows.
            for index in (0, 1):
                fleet.start(index)
            scene.hit(name)
            _stored(fleet, feed, 0)
            if (after := _fingerprints(scene)) != before:
                changed = sorted(table for table in before if before[table] != after[table])
                scene.outcome.failures.append(f"{name} changed rows of {', '.join(changed)}")
            feed.resume()
        scene.enough(feed, feed.sent + events)
        scene.finish(fleet)


def _stored(fleet: Fleet, feed: Feed, events: int) -> None:
    """Pauses the feed once it has sent ``events`` records, and waits until all are stored by workers that run."""
    until(lambda: feed.sent >= events, f"{events:,} records to be sent", fleet.check)
    feed.pause()
    sent = -1
    while sent != feed.sent:
        sent = feed.sent
        time.sleep(1.0)
    fleet.begun()
    fleet.stored()


def _checkpoints(scene: Scene, column: str, value: str = "", rows: list[tuple[object, ...]] | None = None) -> None:
    """Deletes checkpoints (all, or where ``column`` is ``value``), and puts ``rows`` in their place."""
    where = f"{column} = {{value:String}}" if value else column
    with database(scene.settings) as client:
        client.command(
            f"ALTER TABLE checkpoints DELETE WHERE {where}",
            parameters={"value": value},
            settings={"mutations_sync": 1},
        )
        # The agent is the first column.
        if chosen := [row for row in rows or () if not value or row[0] == value]:
            client.insert("checkpoints", chosen)


def _offsets(scene: Scene, share: float) -> None:
    """Sets what Kafka has as committed to a share of each log."""
    settings = scene.settings
    wanted = {
        TopicPartition(settings.topic_prefix + topic, partition): OffsetAndMetadata(int(end * share), "", -1)
        for (topic, partition), end in ends(settings).items()
    }
    # A static member that has stopped is in the group until its session ends.
    until(lambda: not _members(scene), "the group to be empty")
    with contextlib.closing(kafka_admin(settings)) as admin:
        answers = admin.alter_group_offsets(consumer_group(settings), wanted)
    if refused := [error for error in answers.values() if getattr(error, "errno", 0)]:
        raise Wrong(f"Kafka did not set the offsets: {refused[0]}")


def _fingerprints(scene: Scene) -> dict[str, tuple[object, ...]]:
    """Rows and a hash over all of them, of each table that workers store rows in. Of moves those that are true: which
    others were ever stored, and by when one was, depends on how the log was cut into flushes. Of the state of rules
    what they go by, not how far each source is: who begins anew says that once more."""
    tables = sorted({table for tables in flush_tables(scene).values() for table in tables})
    rows = {
        "fan_transitions": "(SELECT * EXCEPT (applied) FROM fan_transitions FINAL WHERE withdrawn = 0)",
        "rule_state": "(SELECT * FROM rule_state FINAL WHERE kind != 'input')",
    }
    return {
        table: ask(
            scene.settings,
            f"SELECT count(), sum(cityHash64(toString(tuple(*)))) FROM {rows.get(table, f'{table} FINAL')}",
        )[0]
        for table in tables
    }


@dataclass(frozen=True)
class Scenario:
    """A scenario: what it is about in a line, and how it is run on a scene that is set up for it."""

    line: str
    run: Callable[[Scene], None]


def _scenario(run: Callable[[Scene], None]) -> Scenario:
    return Scenario(str(run.__doc__), run)


SCENARIOS: dict[str, Scenario] = {
    "kills": _scenario(kills),
    "dead-hand": _scenario(dead_hand),
    "rebalances": _scenario(rebalances),
    "zombies": _scenario(zombies),
    "two-groups": _scenario(two_groups),
    "insert-stall": _scenario(insert_stall),
    "input": _scenario(bad_input),
    "poison": _scenario(poison),
    "alerts": _scenario(told_alerts),
    "set-back": _scenario(set_back),
    "kafka-killed": _scenario(kafka_killed),
    "clickhouse-killed": _scenario(clickhouse_killed),
    "clickhouse-away": _scenario(clickhouse_away),
}
"""What there is, by name. Those that kill services come last."""
