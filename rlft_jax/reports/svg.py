"""Line charts as SVG text: no library, no script, no network; colours come from the page's CSS."""

import html
import itertools
import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

Number = int | float
Point = tuple[Number, Number]

WIDTH, HEIGHT = 460, 250
LEFT, RIGHT, TOP, BOTTOM = 54, 14, 12, 40
HOVERABLE = 120  # points of a series that can be asked for their values; more would hide each other
SMOOTHED = 40  # points from which on noise hides the trend, so that a moving mean is drawn over it


class Chart(NamedTuple):
    """Series over a common axis; each is (x, y) points in order of x."""

    title: str
    x_label: str
    y_label: str
    series: Mapping[str, Sequence[Point]]


def svg(chart: Chart) -> str:
    """Draws a chart; points that are not finite are left out of the lines."""
    finite = {name: _finite(points) for name, points in chart.series.items()}
    everything = [point for points in finite.values() for point in points]
    if not everything:
        return '<p class="note">Nothing was recorded.</p>'
    frame = _Frame([x for x, _ in everything], [y for _, y in everything])
    parts = [
        f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="{html.escape(chart.title)}">',
        *_axes(frame, chart),
    ]
    for number, (name, points) in enumerate(finite.items()):
        parts += _line(frame, points, f"s{number % 4}", name if len(finite) > 1 else chart.y_label)
    return "\n".join([*parts, "</svg>"])


def ticks(low: Number, high: Number, *, about: int = 5) -> list[float]:
    """Round numbers at even distances, from below `low` to above `high`.

    >>> ticks(0.03, 0.38)
    [0.0, 0.1, 0.2, 0.3, 0.4]
    """
    if low == high:
        low, high = (low - 0.5, high + 0.5) if low == 0 else sorted((0.0, 2 * low))
    rough = (high - low) / about
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(m * magnitude for m in (1, 2, 5, 10) if m * magnitude >= rough * 0.9999)
    first, last = math.floor(low / step + 1e-9), math.ceil(high / step - 1e-9)
    return [round(i * step, 12) for i in range(first, last + 1)]


def moving_mean(points: Sequence[Point], reach: int) -> list[Point]:
    """The mean of each point and up to `reach` on either side; as many on both, also at the ends.

    >>> moving_mean([(0, 1.0), (1, 3.0), (2, 8.0)], 1)
    [(0, 1.0), (1, 4.0), (2, 8.0)]
    """
    sums = [0.0, *itertools.accumulate(y for _, y in points)]
    smoothed = []
    for i, (x, _) in enumerate(points):
        near = min(reach, i, len(points) - 1 - i)
        smoothed.append((x, (sums[i + near + 1] - sums[i - near]) / (2 * near + 1)))
    return smoothed


class _Frame:
    """Where values lie on the picture; the last point is at the right edge."""

    def __init__(self, xs: Sequence[Number], ys: Sequence[Number]):
        x_ticks, self.y_ticks = ticks(min(xs), max(xs)), ticks(min(ys), max(ys))
        self.first = x_ticks[0]
        self.last = max(xs) if max(xs) > min(xs) else x_ticks[-1]
        self.x_ticks = [tick for tick in x_ticks if tick <= self.last]

    def x(self, value: Number) -> float:
        share = (value - self.first) / (self.last - self.first)
        return round(LEFT + share * (WIDTH - LEFT - RIGHT), 1)

    def y(self, value: Number) -> float:
        share = (value - self.y_ticks[0]) / (self.y_ticks[-1] - self.y_ticks[0])
        return round(HEIGHT - BOTTOM - share * (HEIGHT - TOP - BOTTOM), 1)


def _axes(frame: _Frame, chart: Chart) -> list[str]:
    """Grid lines, numbers and the names of both axes."""
    right, bottom = WIDTH - RIGHT, HEIGHT - BOTTOM
    parts = []
    for value in frame.y_ticks:
        y = frame.y(value)
        parts.append(f'<line class="grid" x1="{LEFT}" x2="{right}" y1="{y}" y2="{y}"/>')
        parts.append(f'<text x="{LEFT - 7}" y="{y + 4}" text-anchor="end">{value:,g}</text>')
    for value in frame.x_ticks:
        x = frame.x(value)
        parts.append(f'<line class="axis" x1="{x}" x2="{x}" y1="{bottom}" y2="{bottom + 4}"/>')
        parts.append(f'<text x="{x}" y="{bottom + 17}" text-anchor="middle">{value:,g}</text>')
    middle = (TOP + bottom) / 2
    return [
        *parts,
        f'<line class="axis" x1="{LEFT}" x2="{right}" y1="{bottom}" y2="{bottom}"/>',
        f'<text x="{(LEFT + right) / 2}" y="{HEIGHT - 5}" text-anchor="middle">'
        f"{html.escape(chart.x_label)}</text>",
        f'<text transform="translate(11 {middle}) rotate(-90)" text-anchor="middle">'
        f"{html.escape(chart.y_label)}</text>",
    ]


def _line(frame: _Frame, points: Sequence[Point], style: str, name: str) -> list[str]:
    """A series: its line, the trend over it if it is long, and spots that tell their values."""
    if not points:
        return []
    is_long = len(points) >= SMOOTHED
    parts = [_path(frame, points, f"{style} raw" if is_long else style)]
    if is_long:
        parts.append(_path(frame, moving_mean(points, len(points) // 25), style))
    spots = f"{style} hidden" if is_long else style
    for x, y in points[:: -(-len(points) // HOVERABLE)]:
        told = html.escape(f"{x:,g}: {name} {y:.4g}")
        spot = f'<circle class="{spots}" cx="{frame.x(x)}" cy="{frame.y(y)}" r="3">'
        parts.append(f"{spot}<title>{told}</title></circle>")
    return parts


def _path(frame: _Frame, points: Sequence[Point], style: str) -> str:
    places = " ".join(f"{frame.x(x)},{frame.y(y)}" for x, y in points)
    return f'<polyline class="{style}" points="{places}"/>'


def _finite(points: Sequence[Point]) -> list[Point]:
    return [(x, y) for x, y in points if math.isfinite(x) and math.isfinite(y)]
