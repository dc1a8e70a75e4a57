"""What is chosen of variables one time after the other: every value, and every pair of values."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from dashboards.check import choices
from dashboards.macros import ALL

_VALUES = st.dictionaries(
    st.sampled_from(["platform", "creator", "campaign", "window"]),
    st.lists(st.sampled_from("abcdefg"), min_size=1, max_size=5, unique=True),
    max_size=4,
)


@given(_VALUES)
def test_every_value_and_every_pair_is_chosen(values: dict[str, list[str]]) -> None:
    first, *others = choices(values, thorough=True)
    assert first == {name: ["60"] if name == "window" else [ALL] for name in values}
    for name, known in values.items():
        assert {chosen[name][0] for chosen in others} == set(known)
    for one, other in itertools.combinations(values, 2):
        pairs = {(chosen[one][0], chosen[other][0]) for chosen in others}
        assert pairs == set(itertools.product(values[one], values[other]))
    # Never more than one after the other would take.
    assert len(others) <= max(1, sum(len(a) * len(b) for a, b in itertools.combinations(values.values(), 2))) + 5


@given(_VALUES)
def test_in_a_hurry_only_what_a_board_opens_with(values: dict[str, list[str]]) -> None:
    assert len(list(choices(values, thorough=False))) == 1
