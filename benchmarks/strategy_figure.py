"""Draw the curves of benchmarks/strategies.py as docs/images/pruning_search.svg: the best value by evaluations.

usage: python benchmarks/strategy_figure.py OUT/curve.csv FIGURE.svg [--size 8] [--low .7]
"""

import argparse
import csv
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from stratoscope.results import COLOURS, integer_step

WIDTH, HEIGHT = 760, 400
LEFT, RIGHT, TOP, BOTTOM = 70, 215, 20, 50
"""Margins around the plot; the names of strategies are in the right one."""
LINE_HEIGHT = 18
DASHES = ("none", "9 4", "2 3", "none", "12 3 2 3", "5 5")
"""Patterns of lines, so that lines that coincide can be told apart."""
STYLE = (
    "text { fill: #1d2733; } .soft { fill: #55616d; } .line { fill: none; stroke-width: 2.2; } "
    ".axis { stroke: #55616d; } .grid { stroke: #e3e8ec; } rect.paper { fill: #ffffff; }"
)

Curve = Sequence[tuple[int, float]]
"""Numbers of evaluations, with the best value after each."""


def read_curves(path: Path, size: int, low: float) -> dict[str, Curve]:
    """Return the curve of each strategy at a size, starting where its best value first reaches `low`."""
    curves: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with path.open(encoding="utf-8") as file:
        for row in csv.DictReader(file):
            best = float(row["best"])
            if int(row["size"]) == size and best >= low:
                curves[row["strategy"]].append((int(row["evaluation"]), best))
    return dict(curves)


class Plot:
    """Maps evaluations and values to places in the drawing."""

    def __init__(self, curves: Mapping[str, Curve]) -> None:
        self.last = max(evaluation for curve in curves.values() for evaluation, _ in curve)
        values = [value for curve in curves.values() for _, value in curve]
        self.step = next(s for s in (0.01, 0.02, 0.05, 0.1, 0.2) if (max(values) - min(values)) / s <= 8)
        self.low = math.floor(min(values) / self.step) * self.step
        self.high = math.ceil(max(values) / self.step) * self.step

    def x(self, evaluation: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * evaluation / self.last

    def y(self, value: float) -> float:
        return TOP + (HEIGHT - TOP - BOTTOM) * (self.high - value) / (self.high - self.low)

    def axes(self, axis: str) -> Iterator[str]:
        """Yield grid, ticks and titles."""
        for i in range(round((self.high - self.low) / self.step) + 1):
            value = self.low + i * self.step
            y = self.y(value)
            yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>'
            yield f'<text class="soft" x="{LEFT - 8}" y="{y + 4:.1f}" text-anchor="end">{value:.0%}</text>'
        bottom = HEIGHT - BOTTOM
        for evaluation in range(0, self.last + 1, integer_step(self.last)):
            x = self.x(evaluation)
            yield f'<text class="soft" x="{x:.1f}" y="{bottom + 18}" text-anchor="middle">{evaluation}</text>'
        yield f'<line class="axis" x1="{LEFT}" x2="{WIDTH - RIGHT}" y1="{bottom}" y2="{bottom}"/>'
        middle = (LEFT + WIDTH - RIGHT) / 2
        yield f'<text x="{middle}" y="{HEIGHT - 10}" text-anchor="middle">sets evaluated</text>'
        turn = f"rotate(-90 16 {HEIGHT / 2})"
        yield f'<text x="16" y="{HEIGHT / 2}" text-anchor="middle" transform="{turn}">{axis}</text>'

    def lines(self, curves: Mapping[str, Curve]) -> Iterator[str]:
        """Yield a stepped line for each strategy, with its name beside the last value."""
        heights = self._name_heights(curves)
        for (name, curve), colour, dashes in zip(curves.items(), COLOURS, DASHES, strict=False):
            path = f"M{self.x(curve[0][0]):.1f} {self.y(curve[0][1]):.1f}"
            path += "".join(f"H{self.x(evaluation):.1f}V{self.y(value):.1f}" for evaluation, value in curve[1:])
            yield f'<path class="line" d="{path}" stroke="{colour}" stroke-dasharray="{dashes}"/>'
            label = f"{name.replace('_', ' ')}, {curve[-1][1]:.1%}"
            x, y = self.x(curve[-1][0]), self.y(curve[-1][1])
            yield f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{colour}"/>'
            yield f'<circle cx="{WIDTH - RIGHT + 14}" cy="{heights[name] - 5:.1f}" r="5" fill="{colour}"/>'
            yield f'<text x="{WIDTH - RIGHT + 24}" y="{heights[name]:.1f}">{label}</text>'

    def _name_heights(self, curves: Mapping[str, Curve]) -> dict[str, float]:
        """Return a height for each name, in order of the last values and without overlaps."""
        heights: dict[str, float] = {}
        lowest = 0.0
        for name in sorted(curves, key=lambda name: -curves[name][-1][1]):
            lowest = max(self.y(curves[name][-1][1]) + 5, lowest + LINE_HEIGHT)
            heights[name] = lowest
        return heights


def draw(curves: Mapping[str, Curve], axis: str, title: str) -> str:
    """Return the drawing as SVG."""
    plot = Plot(curves)
    body = "\n".join(f"  {element}" for element in [*plot.axes(axis), *plot.lines(curves)])
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-labelledby="title" '
        f'font-family="system-ui, sans-serif" font-size="13">\n  <title id="title">{title}</title>\n'
        f"  <style>{STYLE}</style>\n"
        f'  <rect class="paper" width="{WIDTH}" height="{HEIGHT}"/>\n{body}\n</svg>\n'
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("curve", type=Path)
    parser.add_argument("figure", type=Path)
    parser.add_argument("--size", type=int, default=8, help="number of dropped layers")
    parser.add_argument("--low", type=float, default=-math.inf, help="least value that is drawn")
    given = parser.parse_args()
    title = f"Best set of {given.size} layers by number of evaluated sets, for each strategy"
    drawing = draw(
        read_curves(given.curve, given.size, given.low), "best likelihood kept (16 items of each task)", title
    )
    given.figure.write_text(drawing, encoding="utf-8")


if __name__ == "__main__":
    main()
