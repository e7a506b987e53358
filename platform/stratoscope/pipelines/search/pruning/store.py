"""Evaluations and speeds of a run: one file per set of dropped layers and slice of items, so that none is repeated."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict

import pyarrow as pa

from stratoscope.digest import digest
from stratoscope.errors import DamagedFileError
from stratoscope.evaluation import ItemScore, Slice
from stratoscope.models.speed import SpeedComparison
from stratoscope.phases import tell
from stratoscope.pruning import LayerSet
from stratoscope.results import Storage, read_parquet, to_parquet
from stratoscope.tables.pruning import EvaluationRow, evaluation_table

FOLDER = "evaluations"


class EvaluationStore:
    """The evaluations and speeds in a run's folder. Several evaluators may write to it.

    Args:
        run: the run's folder.
    """

    def __init__(self, run: Storage) -> None:
        self._run = run
        self._storage = run.child(FOLDER)

    def read(self, dropped: LayerSet, items: Slice) -> list[ItemScore] | None:
        """Return an evaluation, or None if it has not been computed."""
        try:
            table = read_parquet(self._storage, _name(dropped, items))
        except FileNotFoundError:
            return None
        except DamagedFileError as error:
            tell(f"{error}; the evaluation is computed again")
            return None
        if not {"metric", "log_probability"} <= set(table.column_names):  # written by an older version
            return None
        return [row.to_score() for row in EvaluationRow.read(table)]

    def write(self, dropped: LayerSet, items: Slice, scores: Sequence[ItemScore]) -> None:
        """Store an evaluation."""
        self._storage.write(_name(dropped, items), to_parquet(evaluation_table(dropped, items.part, scores)))

    def read_speed(self, parameters: int) -> SpeedComparison | None:
        """Return the speed of a model by its number of parameters, or None if it has not been measured."""
        try:
            return SpeedComparison(**json.loads(self._storage.read(_speed_name(parameters))))
        except FileNotFoundError:
            return None

    def write_speed(self, parameters: int, speed: SpeedComparison) -> None:
        """Store a speed, so that a resumed run shows the same speed as the checkpoint's card."""
        self._storage.write(_speed_name(parameters), json.dumps(asdict(speed)).encode())

    def __len__(self) -> int:
        return len(self._names())

    def tables(self) -> Iterator[pa.Table]:
        """Yield all evaluations in order of file names."""
        for name in self._names():
            yield read_parquet(self._storage, name)

    def clear(self) -> None:
        """Remove all evaluations once they are in the run's table."""
        self._run.remove(FOLDER)

    def _names(self) -> list[str]:
        # A killed process may leave an incomplete file, whose name begins with a dot.
        return [name for name in self._storage.names() if name.endswith(".parquet") and not name.startswith(".")]


def _name(dropped: LayerSet, items: Slice) -> str:
    return f"{items.name}.{digest({'dropped': list(dropped)})[:20]}.parquet"


def _speed_name(parameters: int) -> str:
    return f"speed-{parameters}.json"
