"""How far a home's world has been produced, and what was changed in its market: ``generator.json``, written after every
flush."""

from pathlib import Path

from pydantic import BaseModel, ConfigDict, ValidationError

from generators.config import DEFAULT_CREATORS, DEFAULT_DAYS, DEFAULT_FANS, WorldConfig, history_start
from generators.market import Change
from infra.errors import FanpulseError
from infra.home import write_private
from infra.settings import Settings

FILE = "generator.json"


class Progress(BaseModel):
    """A world and, for each partition, the UTC ms before which everything has been taken by Kafka.

    ``changes``: what was done in its market so far; budgets as of the world at its natural rate.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    config: WorldConfig
    until_ms: dict[int, int]
    changes: tuple[Change, ...] = ()


def load_progress(home: Path) -> Progress | None:
    """What a home has produced; None if nothing yet.

    Raises:
        FanpulseError: the file is broken.
    """
    file = home / FILE
    try:
        return Progress.model_validate_json(file.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValidationError):
        raise FanpulseError(f"{file}: cannot be read; remove it to begin a new world in an empty home") from None


def save_progress(home: Path, progress: Progress) -> None:
    """Writes the file so that a reader sees the old content or the new, never half of it.

    Raises:
        FanpulseError: it cannot be written.
    """
    try:
        home.mkdir(parents=True, exist_ok=True)
        write_private(home / FILE, progress.model_dump_json(indent=1) + "\n")
    except OSError as error:
        raise FanpulseError(f"{home / FILE}: cannot be written ({error.strerror})") from None


def keep_world(home: Path, config: WorldConfig) -> None:
    """Makes a world that of a home that has none yet.

    Raises:
        FanpulseError: it cannot be written.
    """
    if load_progress(home) is None:
        save_progress(home, Progress(config=config, until_ms={}))


def open_world(
    settings: Settings,
    now_ms: int,
    *,
    seed: int | None = None,
    fans: int | None = None,
    creators: int | None = None,
    days: int | None = None,
    duplicates: float = 0.0,
    late: float = 0.0,
    malformed: float = 0.0,
) -> WorldConfig:
    """The world of a home: the one that it has, else a new one whose history begins ``days`` before ``now_ms``.

    What is None is taken from the home's world, else from the defaults. The weather may change from run to run; late
    events that are still held back when it does are not sent.

    Raises:
        FanpulseError: the home has a world of another seed, size or number of partitions, or a value is out of range.
    """
    weather = {"duplicates": duplicates, "late": late, "malformed": malformed}
    known = load_progress(settings.home)
    try:
        if known is None:
            return WorldConfig(
                seed=7 if seed is None else seed,
                fans=DEFAULT_FANS if fans is None else fans,
                creators=DEFAULT_CREATORS if creators is None else creators,
                partitions=settings.partitions,
                time_zone=settings.time_zone,
                start_ms=history_start(now_ms, DEFAULT_DAYS if days is None else days),
                **weather,
            )
        wanted = {
            "seed": seed,
            "fans": fans,
            "creators": creators,
            "partitions": settings.partitions,
            "time_zone": settings.time_zone,
        }
        for name, value in wanted.items():
            has = getattr(known.config, name)
            if value is not None and value != has:
                raise FanpulseError(
                    f"the world in {settings.home} has {name} {has}, not {value}; "
                    f"leave it out, or use another --home for another world"
                )
        return WorldConfig.model_validate({**known.config.model_dump(), **weather})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        name = ".".join(str(part) for part in first["loc"])
        raise FanpulseError(f"{name}: {first['msg'][0].lower()}{first['msg'][1:]}") from None
