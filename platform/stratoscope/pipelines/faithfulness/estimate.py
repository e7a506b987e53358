"""What a faithfulness run would do, said before it starts."""

from collections.abc import Mapping, Sequence

from stratoscope.data import Series
from stratoscope.forecasting import FORECASTERS
from stratoscope.pipelines.faithfulness.cells import Cell
from stratoscope.pipelines.faithfulness.config import FAITHFUL, FaithfulnessConfig


def estimate(
    config: FaithfulnessConfig, series: Mapping[str, Series], cells: Sequence[Cell]
) -> Sequence[tuple[str, str]]:
    """Return pairs of a name and a text: the series, the grid, and the steps that are made."""
    steps = 0
    for cell in cells:
        if not FORECASTERS[cell.forecaster].trainable:
            continue
        windows = len(series[cell.dataset].starts("train", config.lookback(cell.horizon), cell.horizon))
        plain = cell.training == "plain"
        # A faithful step holds an ascent, each step of which is another pass.
        passes = 1 + (config.faithful.steps if cell.training in FAITHFUL else 0)
        epochs = config.fit.epochs if plain else config.fit.faithful_epochs
        steps += passes * epochs * -(-windows // config.fit.batch)
    met = len(config.grid.perturbations) * sum(level > 0 for level in config.grid.levels)
    return [
        *(
            (f"series {name}", f"{len(own.values):,} rows, columns {', '.join(own.columns)}")
            for name, own in series.items()
        ),
        ("grid", f"{len(cells)} cells, each met with {met} perturbations"),
        ("work", f"{steps:,} passes of {config.fit.batch} windows, those of ascents included"),
    ]
