"""Sweeps: each combination once, in an order that a seed fixes for ever, at a cost that does not depend on size."""

from __future__ import annotations

from itertools import pairwise, product

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autoperfd.core.names import KEYS, parse_name
from autoperfd.core.names import test_name as name_of
from autoperfd.core.plan import Setting
from autoperfd.core.sweep import Axis, Choice, Listing, Permutation, Product, Range, Sweep, Values
from tests.bounds import at_most

BOOLEANS: tuple[Setting, ...] = (True, False)


@st.composite
def value_sets(draw: st.DrawFn, boolean: bool) -> Values:
    """A choice or a range with holes."""
    if boolean:
        return Choice(tuple(draw(st.lists(st.sampled_from(BOOLEANS), min_size=1, max_size=2, unique=True))))
    if draw(st.booleans()):
        return Choice(tuple(draw(st.lists(st.integers(0, 10**6), min_size=1, max_size=6, unique=True))))
    cuts = draw(st.lists(st.integers(0, 10**6), min_size=2, max_size=6, unique=True).filter(lambda x: len(x) % 2 == 0))
    cuts.sort()
    return Range(tuple(zip(cuts[::2], cuts[1::2], strict=True)))


@st.composite
def spaces(draw: st.DrawFn) -> Product:
    """A product of a few axes in any order."""
    keys = draw(st.lists(st.sampled_from(KEYS), min_size=1, max_size=5, unique_by=lambda key: key.name))
    return Product(tuple(Axis(key.name, draw(value_sets(key.boolean))) for key in keys))


def small(space: Product) -> bool:
    return space.count <= 2000


def pcg(**lists: list[Setting]) -> Sweep:
    return Sweep(Product(tuple(Axis(key, Choice(tuple(values))) for key, values in lists.items())))


# ---------------------------------------------------------------- order


def test_last_key_is_the_fastest() -> None:
    sweep = pcg(pub_count=[1, 2], sub_count=[7, 8], use_reliable=[True, False])
    got = [tuple(sweep.at(i).values()) for i in range(sweep.count)]
    assert got == list(product([1, 2], [7, 8], [True, False]))


def test_keys_keep_the_order_of_the_file() -> None:
    assert list(pcg(sub_count=[1], pub_count=[1]).at(0)) == ["sub_count", "pub_count"]


def test_a_listing_keeps_its_order() -> None:
    names = ("30SEC_5PUB_1SUB", "30SEC_1PUB_1SUB")
    sweep = Sweep(Listing(names))
    assert [sweep.name_at(i) for i in range(2)] == list(names)
    assert sweep.index_of("30s_1P_1S") == 1
    assert sweep.index_of("30SEC_2PUB_1SUB") is None


def test_what_a_seed_means_never_changes() -> None:
    """Memories hold numbers of tests: another permutation would give them other meanings."""
    assert [Permutation(10, 7).apply(i) for i in range(10)] == [2, 9, 0, 1, 7, 3, 8, 5, 6, 4]
    assert Permutation(10**18 + 9, 2**63 - 1).apply(123456789) == 481411294167091704


# ---------------------------------------------------------------- bijection


@given(st.integers(1, 3000), st.integers(0, 2**63 - 1))
@settings(max_examples=60, deadline=None)
def test_a_permutation_meets_everything_once(count: int, seed: int) -> None:
    permutation = Permutation(count, seed)
    images = [permutation.apply(i) for i in range(count)]
    assert sorted(images) == list(range(count))
    assert all(permutation.invert(image) == i for i, image in enumerate(images))


@given(st.integers(1, 10**40), st.integers(0, 2**63 - 1), st.data())
def test_a_permutation_of_any_size_can_be_inverted(count: int, seed: int, data: st.DataObject) -> None:
    permutation = Permutation(count, seed)
    i = data.draw(st.integers(0, count - 1))
    image = permutation.apply(i)
    assert 0 <= image < count
    assert permutation.invert(image) == i


def test_a_permutation_spreads() -> None:
    """Not a proof of randomness: neighbours part, seeds differ, and the halves of the space are met alike."""
    count = 10**6
    first, other = Permutation(count, 1), Permutation(count, 2)
    images = [first.apply(i) for i in range(2000)]
    assert sum(abs(a - b) < count // 100 for a, b in pairwise(images)) < 120
    assert 850 < sum(image < count // 2 for image in images) < 1150
    assert sum(first.apply(i) == other.apply(i) for i in range(2000)) < 10


@given(spaces().filter(small), st.booleans(), st.integers(0, 2**32))
@settings(max_examples=60, deadline=None)
def test_every_test_comes_once(space: Product, shuffled: bool, seed: int) -> None:
    sweep = Sweep(space, shuffled).seeded(seed)
    names = [sweep.name_at(i) for i in range(sweep.count)]
    assert len(set(names)) == len(names) == space.count


@given(spaces(), st.booleans(), st.integers(0, 2**32), st.data())
@settings(deadline=None)
def test_name_and_number_determine_each_other(space: Product, shuffled: bool, seed: int, data: st.DataObject) -> None:
    sweep = Sweep(space, shuffled).seeded(seed)
    i = data.draw(st.integers(0, sweep.count - 1))
    assert sweep.index_of(sweep.name_at(i)) == i
    assert sweep.covers(sweep.name_at(i))


@given(spaces(), st.data())
def test_what_is_not_in_the_space_has_no_number(space: Product, data: st.DataObject) -> None:
    sweep = Sweep(space)
    wanted = sweep.at(0)
    key = data.draw(st.sampled_from(list(wanted)))
    without = {k: v for k, v in wanted.items() if k != key}
    assert sweep.index_of(name_of(without)) is None
    other = data.draw(st.booleans() if isinstance(wanted[key], bool) else st.integers(0, 10**9))
    axis = next(axis for axis in space.axes if axis.key == key)
    inside = axis.values.index(other) is not None
    assert (sweep.index_of(name_of({**wanted, key: other})) is not None) == inside


@given(value_sets(boolean=False))
def test_values_and_their_numbers(values: Values) -> None:
    for i in {0, values.count // 2, values.count - 1}:
        assert values.index(values.at(i)) == i
    assert values.index(True) is None
    assert 1 <= len(values.samples(5)) <= 5
    assert all(values.index(value) is not None for value in values.samples(5))


def test_a_range_steps_over_its_holes() -> None:
    values = Range(((28, 30), (40, 40), (50, 51)))
    assert [values.at(i) for i in range(values.count)] == [28, 29, 30, 40, 50, 51]
    assert [values.index(value) for value in (27, 28, 31, 40, 49, 51, 52)] == [None, 0, None, 3, None, 5, None]


# ---------------------------------------------------------------- limit and seed


def test_a_limit_bounds_the_sweep_but_not_the_space() -> None:
    space = Product((Axis("pub_count", Range(((1, 1000),))),))
    sweep = Sweep(space, True, 10, 3)
    assert sweep.count == 10
    inside = {sweep.name_at(i) for i in range(10)}
    outside = next(f"{n}PUB" for n in range(1, 1001) if f"{n}PUB" not in inside)
    assert sweep.index_of(outside) is None
    assert sweep.covers(outside)
    assert Sweep(space, True, 5000, 3).count == 1000
    with pytest.raises(IndexError):
        sweep.at(10)
    with pytest.raises(IndexError):
        sweep.at(-1)


def test_a_larger_limit_goes_on_where_the_smaller_ended() -> None:
    space = Product((Axis("pub_count", Range(((1, 1000),))),))
    few, more = (Sweep(space, True, limit, 3) for limit in (10, 20))
    assert [few.at(i) for i in range(10)] == [more.at(i) for i in range(10)]


def test_a_shuffled_sweep_needs_its_seed() -> None:
    sweep = Sweep(Product((Axis("pub_count", Choice((1, 2))),)), shuffled=True)
    assert sweep.count == 2 and sweep.covers("1PUB")
    with pytest.raises(ValueError):
        sweep.at(0)
    assert sweep.seeded(1).seed == 1
    assert pcg(pub_count=[1]).seeded(1).seed is None


# ---------------------------------------------------------------- identity


def test_identity_is_the_set_of_values() -> None:
    same = [
        pcg(pub_count=[1, 2, 3], use_reliable=[True, False]),
        pcg(use_reliable=[False, True], pub_count=[3, 1, 2]),
        Sweep(
            Product((Axis("pub_count", Range(((1, 2), (3, 3)))), Axis("use_reliable", Choice(BOOLEANS)))), True, 4, 9
        ),
    ]
    others = [
        pcg(pub_count=[1, 2, 3]),
        pcg(pub_count=[1, 2, 3], use_reliable=[True]),
        pcg(pub_count=[1, 3], use_reliable=[True, False]),
        pcg(sub_count=[1, 2, 3], use_reliable=[True, False]),
    ]
    assert len({sweep.identity("perftest") for sweep in same}) == 1
    assert len({sweep.identity("perftest") for sweep in [same[0], *others]}) == 5
    assert same[0].identity("perftest") != same[0].identity("ddsperf")
    assert Sweep(Listing(("1PUB", "2PUB"))).identity("x") == Sweep(Listing(("2PUB", "1PUB"))).identity("x")


# ---------------------------------------------------------------- size


@pytest.mark.parametrize("shuffled", [False, True])
@pytest.mark.parametrize("side", [10**3, 10**6])
def test_a_huge_space_costs_nothing(shuffled: bool, side: int) -> None:
    keys = ("duration_secs", "datalen_bytes", "pub_count", "latency_count")
    with at_most(3_000):
        sweep = Sweep(Product(tuple(Axis(key, Range(((1, side),))) for key in keys)), shuffled, None, 5)
        assert sweep.count == side**4
        for i in (0, 1, 10**9, side**4 // 2, side**4 - 1):
            assert sweep.index_of(sweep.name_at(i)) == i


@given(spaces(), st.integers(4096, 20_000))
@settings(max_examples=30, deadline=None)
def test_samples_stay_in_their_budget_and_in_the_space(space: Product, budget: int) -> None:
    got = list(space.samples(budget))
    assert 1 <= len(got) <= budget
    assert len({name_of(test) for test in got}) == len(got)
    assert all(space.index(test) is not None for test in got)
    if space.count <= budget:
        assert len(got) == space.count


def test_names_of_a_sweep_are_read_back() -> None:
    sweep = pcg(duration_secs=[30], datalen_bytes=[100], pub_count=[1], sub_count=[2], use_reliable=[True])
    assert parse_name(sweep.name_at(0)) == sweep.at(0)
