"""What the demo's screen says of health."""

from rich.console import Console

from fanpulse.figures import Health
from fanpulse.screen import View, line, picture

HEALTH = Health(workers=1, records=900, late=3, refused=4, lag=1234, newest=1_000.0)


def shown(view: View) -> str:
    console = Console(width=120)
    with console.capture() as capture:
        console.print(picture(view))
    return capture.get()


def test_figures_are_those_of_all_workers() -> None:
    view = View(health=HEALTH, rate=12.34, now=1_007.0)
    assert line(view) == "starting  sent 0  stored 12.3/s  lag 1,234  freshness 7 s  late 3  repeats 0  refused 4"
    for figure in ("12.3", "1,234", "7 s"):
        assert figure in shown(view)


def test_what_not_every_worker_says_is_not_shown_as_a_figure() -> None:
    for health in (Health(), HEALTH):
        view = View(health=health, rate=None, now=1_007.0)
        assert line(view) == "starting  sent 0  stored -/s  lag -  freshness -  late -  repeats -  refused -"
        assert "1,234" not in shown(view)
