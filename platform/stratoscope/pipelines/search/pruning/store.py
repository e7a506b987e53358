"""Evaluations of a run, one file for each set of dropped layers and slice of items: none is done twice."""

from collections.abc import Iterator, Sequence

import pyarrow as pa

from stratoscope.digest import digest
from stratoscope.evaluation import ItemScore, Slice
from stratoscope.pipelines.search.pruning.tables import EVALUATIONS, evaluation_rows, item_scores
from stratoscope.results import Storage, from_parquet, from_rows, to_parquet

FOLDER = "evaluations"


class EvaluationStore:
    """The evaluations of a run in its folder; several evaluators may write to it.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._storage = run.child(FOLDER)

    def read(self, dropped: Sequence[int], items: Slice) -> list[ItemScore] | None:
        """Return an evaluation, or None if it was not done yet."""
        try:
            return item_scores(from_parquet(self._storage.read(_name(dropped, items))))
        except FileNotFoundError:
            return None

    def write(self, dropped: Sequence[int], items: Slice, scores: Sequence[ItemScore]) -> None:
        """Keep an evaluation."""
        table = from_rows(evaluation_rows(dropped, items.part, scores), EVALUATIONS)
        self._storage.write(_name(dropped, items), to_parquet(table))

    def __len__(self) -> int:
        return len(self._names())

    def tables(self) -> Iterator[pa.Table]:
        """Yield all evaluations, in order of file names."""
        for name in self._names():
            yield from_parquet(self._storage.read(name))

    def _names(self) -> list[str]:
        # A process that was killed may have left a file that is not whole; its name begins with a dot.
        return [name for name in self._storage.names() if name.endswith(".parquet") and not name.startswith(".")]

    def clear(self) -> None:
        """Remove all, once they stand in the run's table."""
        self._run.remove(FOLDER)


def _name(dropped: Sequence[int], items: Slice) -> str:
    return f"{items.name}.{digest({'dropped': list(dropped)})[:20]}.parquet"
