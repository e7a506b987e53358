"""Finished parts of a run in its folder: trainings and evaluations, which a resumed run does not repeat."""

import hashlib
import json
from dataclasses import dataclass
from math import nan
from typing import Any

from stratoscope.errors import DamagedFileError
from stratoscope.evaluation import Score
from stratoscope.mitigation import Variant
from stratoscope.phases import tell
from stratoscope.results import Storage, read_table, write_table
from stratoscope.tables.mitigation import LayerSeparationRow, VariantItemRow

FOLDER = "variants"


@dataclass(frozen=True)
class TrainedVariant:
    """A finished training."""

    variant: Variant
    layers: tuple[int, ...]
    """Trained layers. The search may have chosen a different number of layers than the variant has."""
    learning_rate: float
    steps: list[dict[str, float]]
    """Metrics of each step up to the checkpoint of the model."""
    parameters: int
    """Number of trained parameters."""
    diverged: bool
    """Whether the loss became non-finite after the last checkpoint."""
    seconds: float
    digest: str | None = None
    """SHA-256 of the file of the trained tensors; None if an older version wrote it."""


@dataclass(frozen=True)
class LayerSeparation:
    """Separation of right and wrong answers in one layer, as the mean over a data set's questions."""

    dataset: str
    layer: int
    """Index of the layer in the whole model."""
    n: int
    gap: float
    closer: float


@dataclass(frozen=True)
class ModelScores:
    """The evaluation of one model."""

    scores: list[Score]
    separations: list[LayerSeparation]

    def item_rows(self, name: str, seed: int | None) -> list[VariantItemRow]:
        """Return the item scores as rows of a table."""
        return [
            VariantItemRow(
                variant=name,
                seed=seed,
                dataset=s.dataset,
                metric=s.metric,
                item_id=s.item_id,
                value=s.value,
                weight=s.weight,
            )
            for s in self.scores
        ]

    def separation_rows(self, name: str, seed: int | None) -> list[LayerSeparationRow]:
        """Return the separations as rows of a table."""
        return [
            LayerSeparationRow(
                variant=name, seed=seed, dataset=s.dataset, layer=s.layer, n=s.n, gap=s.gap, closer=s.closer
            )
            for s in self.separations
        ]


class VariantStore:
    """Stores finished trainings and evaluations in a run's folder.

    Args:
        storage: the run's folder.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @staticmethod
    def patch(variant: Variant) -> str:
        """Return the name of the file of a variant's trained tensors."""
        return f"{FOLDER}/{variant.key}.safetensors"

    def read_training(self, variant: Variant) -> TrainedVariant | None:
        """Return a finished training; None if there is none, or if its record or its tensors cannot be read."""
        name = f"{FOLDER}/{variant.key}.json"
        if not self._storage.exists(name):
            return None
        try:
            facts: dict[str, Any] = json.loads(self._storage.read(name))
            trained = TrainedVariant(variant, **facts | {"layers": tuple(facts["layers"])})
            self._check_patch(trained)
        except (ValueError, TypeError, KeyError) as error:
            damaged = error if isinstance(error, DamagedFileError) else DamagedFileError(self._storage.url(name), error)
            tell(f"{damaged}; the training is repeated")
            self.forget(variant)
            return None
        return trained

    def _check_patch(self, trained: TrainedVariant) -> None:
        """Check that the file of the trained tensors is the one that was written.

        Raises:
            DamagedFileError: it is missing or has changed.
        """
        name = self.patch(trained.variant)
        if not self._storage.exists(name):
            raise DamagedFileError(self._storage.url(name), "it is missing")
        with self._storage.open(name) as opened:
            file: Any = opened  # its type lacks `readinto`, which every binary file has
            if trained.digest not in (None, hashlib.file_digest(file, "sha256").hexdigest()):
                raise DamagedFileError(self._storage.url(name), "its digest is another")

    def forget(self, variant: Variant) -> None:
        """Remove a training and the evaluation of its model, before it is repeated."""
        for name in (f"{variant.key}.json", f"{variant.key}.items.parquet", f"{variant.key}.safetensors"):
            self._storage.remove(f"{FOLDER}/{name}")

    def write_training(self, trained: TrainedVariant) -> None:
        """Store a training, after its tensors."""
        facts = {name: value for name, value in vars(trained).items() if name != "variant"}
        self._storage.write(f"{FOLDER}/{trained.variant.key}.json", json.dumps(facts).encode())

    def read_scores(self, key: str) -> ModelScores | None:
        """Return the finished evaluation of a model, or None."""
        if not self._storage.exists(f"{FOLDER}/{key}.items.parquet"):
            return None
        try:
            items = VariantItemRow.read(read_table(self._storage, f"{FOLDER}/{key}.items"))
            separations = LayerSeparationRow.read(read_table(self._storage, f"{FOLDER}/{key}.separation"))
        except (DamagedFileError, FileNotFoundError) as error:
            tell(f"{error}; the evaluation is repeated")
            return None
        return ModelScores(
            # NaN is stored as null in the table.
            [Score(r.dataset, r.metric, r.item_id, nan if r.value is None else r.value, r.weight) for r in items],
            [LayerSeparation(r.dataset, r.layer, r.n, r.gap, r.closer) for r in separations],
        )

    def write_scores(self, key: str, scores: ModelScores) -> None:
        """Store the evaluation of a model."""
        separations = LayerSeparationRow.table(scores.separation_rows(key, None))
        write_table(self._storage, f"{FOLDER}/{key}.separation", separations)
        # This file is written last, because it marks the evaluation as finished.
        write_table(self._storage, f"{FOLDER}/{key}.items", VariantItemRow.table(scores.item_rows(key, None)))

    def clear(self) -> None:
        """Remove all files; the run's tables hold their content."""
        self._storage.remove(FOLDER)
