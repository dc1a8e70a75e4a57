"""Files of A/B tests: what is read, and how what is wrong is refused, with its line."""

import re
from datetime import date
from pathlib import Path

import pytest

from infra.errors import FanpulseError
from pipeline.experiments import least
from schemas.experiments import Experiments
from schemas.yaml_file import load

GOOD = """\
experiments:
  - id: covers
    name: Does another cover sell more?
    platform: douyin
    metric: cvr
    from: 2026-03-02
    to: 2026-03-29
    control: old
    arms:
      old: [1001, "1002"]
      new: [g3]
    alpha: 2.5%
    guards:
      days: 14
      cost: 500 yuan
"""


def read(tmp_path: Path, text: str) -> Experiments:
    path = tmp_path / "tests.yaml"
    path.write_text(text, encoding="utf-8")
    return load(path).read(Experiments)


def test_a_file_is_read(tmp_path: Path) -> None:
    (one,) = read(tmp_path, GOOD).experiments
    assert (one.first, one.last, one.alpha) == (date(2026, 3, 2), date(2026, 3, 29), 0.025)
    assert one.arms == {"old": ("1001", "1002"), "new": ("g3",)}
    assert one.challengers == ("new",)
    assert least("cvr", one.guards) == {"days": 14, "clicks": 1000, "conversions": 30, "cost": 500_000_000}


def test_what_may_be_left_out_is(tmp_path: Path) -> None:
    text = GOOD[: GOOD.index("    alpha")].replace("    to: 2026-03-29\n", "")
    (one,) = read(tmp_path, text).experiments
    assert (one.last, one.alpha) == (None, 0.05)
    assert [least(metric, one.guards)["conversions"] for metric in ("ctr", "cvr", "roi")] == [0, 30, 200]


def test_the_file_of_the_documentation_is_one(tmp_path: Path) -> None:
    page = (Path(__file__).parents[2] / "docs" / "experiments.md").read_text(encoding="utf-8")
    (shown,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (one,) = read(tmp_path, shown).experiments
    assert least(one.metric, one.guards) == {"days": 7, "clicks": 5000, "conversions": 30, "cost": 500_000_000}


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ("metric: cvr", "metric: cpm", "tests.yaml:5: experiments[1].metric: input should be 'ctr', 'cvr' or 'roi'"),
        ("metric: cvr", "metrics: cvr", "tests.yaml:2: experiments[1].metric: is missing (and 1 more)"),
        ("platform: douyin", "platform: weibo", "tests.yaml:4: experiments[1].platform: input should be 'douyin'"),
        ("from: 2026-03-02", "from: 2 March", "tests.yaml:6: experiments[1].from: `2 March` is no day; write it like"),
        ("from: 2026-03-02", "from: 20260302", "tests.yaml:6: experiments[1].from: `20260302` is no day"),
        ("to: 2026-03-29", "to: 2026-03-01", "tests.yaml:2: experiments[1]: from 2026-03-02 to 2026-03-01 is shorter"),
        ("to: 2026-03-29", "to: 2026-03-10", "is shorter than the 14 days of its guards"),
        ("control: old", "control: odl", "tests.yaml:2: experiments[1]: control: odl is none of the arms old, new"),
        ("new: [g3]", "new: []", "arms: new has no ad group"),
        ("new: [g3]", "new: g3", "tests.yaml:11: experiments[1].arms.new: must be a list"),
        ("new: [g3]", "new: [1002]", "arms: ad group 1002 is in both old and new"),
        ("new: [g3]", "new: [g3, g3]", "arms: ad group g3 is in new twice"),
        ("      new: [g3]\n", "", "arms: there must be 2 to 20, the control among them"),
        ("alpha: 2.5%", "alpha: 0.025", "tests.yaml:12: experiments[1].alpha: `0.025` is a bare number"),
        ("alpha: 2.5%", "alpha: 50%", "tests.yaml:12: experiments[1].alpha: input should be less than or equal to 0.2"),
        ("alpha: 2.5%", "alpha: 0%", "tests.yaml:12: experiments[1].alpha: input should be greater than or equal"),
        (
            "days: 14",
            "days: 2",
            "tests.yaml:14: experiments[1].guards.days: input should be greater than or equal to 3",
        ),
        ("days: 14", "days: 14 days", "tests.yaml:14: experiments[1].guards.days: input should be a valid integer"),
        ("cost: 500 yuan", "cost: 500", "tests.yaml:15: experiments[1].guards.cost: `500` is a bare number"),
        ("days: 14", "clics: 14", "tests.yaml:14: experiments[1].guards.clics: is not known here"),
        ("experiments:\n", "tests:\n", "tests.yaml:1: experiments: is missing (and 1 more)"),
        (GOOD, "experiments: []\n", "tests.yaml:1: experiments: must have 1 or more"),
        (GOOD, GOOD + GOOD.removeprefix("experiments:\n"), "experiments: the id covers is there twice"),
    ],
)
def test_what_is_wrong_is_refused_with_its_line(tmp_path: Path, old: str, new: str, says: str) -> None:
    assert old in GOOD
    with pytest.raises(FanpulseError) as refused:
        read(tmp_path, GOOD.replace(old, new, 1))
    assert says in refused.value.message
