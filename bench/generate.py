"""How fast the world is made and serialised, on one core, without Kafka: ``python -m bench.generate``."""

import argparse
import os
import time
from collections import Counter

# One core: set before polars starts its threads.
os.environ["POLARS_MAX_THREADS"] = "1"

from bench.machine import conditions
from bench.result import Result
from generators.config import WorldConfig
from generators.world import World
from schemas.topics import DAY_MS


def measure(config: WorldConfig, days: int) -> dict[str, float]:
    """Makes and serialises so many days of all partitions; events, bytes, seconds, CPU seconds, events per second.

    The world's start (fans and creators from the seed) is counted too.
    """
    begun, cpu = time.perf_counter(), time.process_time()
    world = World(config)
    sizes: Counter[str] = Counter()
    for partition in range(config.partitions):
        for day in range(days):
            start = config.start_ms + day * DAY_MS
            for records in world.records(partition, start, start + DAY_MS).values():
                sizes["events"] += len(records)
                sizes["bytes"] += sum(len(value) for value in records.values if value is not None)
    seconds = time.perf_counter() - begun
    return {
        "events": sizes["events"],
        "bytes": sizes["bytes"],
        "seconds": seconds,
        "cpu_seconds": time.process_time() - cpu,
        "events_per_second": sizes["events"] / seconds,
    }


def bench(days: int = 10) -> Result:
    """The default world, some days of it."""
    result = Result("generate", f"python -m bench.generate --days {days}")
    result.conditions = conditions()
    found = measure(WorldConfig(), days)
    result.add(
        "generators", found["events_per_second"], "events/s", f"{found['events']:,.0f} events, made and serialised"
    )
    result.add("generators: CPU", found["cpu_seconds"] / found["events"] * 1e6, "us/event")
    result.add("generators: size", found["bytes"] / found["events"], "bytes/event")
    return result


def main() -> None:
    """Prints the figures of the default world, or of one that the arguments describe."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--days", type=int, default=45)
    parser.add_argument("--fans", type=int, default=WorldConfig().fans)
    parser.add_argument("--creators", type=int, default=WorldConfig().creators)
    parser.add_argument("--rate-factor", type=float, default=1.0)
    arguments = parser.parse_args()
    config = WorldConfig(fans=arguments.fans, creators=arguments.creators, rate_factor=arguments.rate_factor)
    found = measure(config, arguments.days)
    print(
        f"generators: {found['events']:,.0f} events ({found['bytes'] / found['events']:.0f} bytes each) made and "
        f"serialised in {found['seconds']:.2f} s on one core: {found['events_per_second']:,.0f} events/s "
        f"({found['cpu_seconds'] / found['events'] * 1e6:.2f} us CPU per event)"
    )


if __name__ == "__main__":
    main()
