"""Charts are well-formed, and put values where they belong."""

import itertools
import math
import xml.etree.ElementTree as ElementTree

import pytest

from rlft_jax.reports.svg import BOTTOM, HEIGHT, LEFT, RIGHT, SMOOTHED, WIDTH, Chart, svg, ticks


def drawn(**series):
    return ElementTree.fromstring(svg(Chart("loss <of> all", "step & more", "nats", series)))


def places(line):
    return [tuple(map(float, place.split(","))) for place in line.get("points").split()]


def test_a_line_goes_from_edge_to_edge_and_its_greatest_value_is_highest():
    (line,) = drawn(a=[(0, 1.0), (5, 4.0), (10, 2.0)]).iter("polyline")
    (x0, y0), (x1, y1), (x2, y2) = places(line)
    assert (x0, x1, x2) == (LEFT, pytest.approx((LEFT + WIDTH - RIGHT) / 2, abs=0.1), WIDTH - RIGHT)
    assert y0 == HEIGHT - BOTTOM  # 1 is the lowest tick
    assert y1 < y2 < y0


def test_both_axes_are_named_and_markup_in_names_is_text():
    texts = [element.text for element in drawn(a=[(0, 1.0), (1, 2.0)]).iter("text")]
    assert {"step & more", "nats"} <= set(texts)


def test_every_point_tells_its_value():
    told = [title.text for title in drawn(train=[(1, 0.5)], test=[(20, 0.25)]).iter("title")]
    assert told == ["1: train 0.5", "20: test 0.25"]


def test_values_that_are_not_finite_are_left_out():
    (line,) = drawn(a=[(0, 1.0), (1, math.nan), (2, math.inf), (3, 2.0)]).iter("polyline")
    assert len(places(line)) == 2


@pytest.mark.parametrize("points", [[], [(0, math.nan)]])
def test_a_chart_of_nothing_says_so(points):
    assert "Nothing was recorded" in svg(Chart("a", "b", "c", {"d": points}))


@pytest.mark.parametrize("y", [0.0, -3.0, 7.0, 1e-9, 1e12])
def test_a_constant_can_be_drawn(y):
    (line,) = drawn(a=[(1, y), (2, y)]).iter("polyline")
    assert all(0 <= place <= HEIGHT for _, place in places(line))
    assert len(list(drawn(a=[(5, y)]).iter("circle"))) == 1


def test_a_long_series_has_its_trend_drawn_over_the_noise():
    zigzag = [(i, float(i % 2)) for i in range(10 * SMOOTHED)]
    raw, trend = drawn(a=zigzag).iter("polyline")
    height = lambda line: max(y for _, y in places(line)) - min(y for _, y in places(line))
    inner = places(trend)[50:-50]
    assert "raw" in raw.get("class")
    assert max(y for _, y in inner) - min(y for _, y in inner) < 0.1 * height(raw)


@pytest.mark.parametrize("span", [(0, 1), (0.001, 0.0042), (-7, 93), (1e6, 3e6), (0.1, 0.1)])
def test_ticks_are_few_even_and_around_the_values(span):
    found = ticks(*span)
    steps = [b - a for a, b in itertools.pairwise(found)]
    assert found[0] <= span[0]
    assert found[-1] >= span[1]
    assert 3 <= len(found) <= 8
    assert max(steps) == pytest.approx(min(steps))
