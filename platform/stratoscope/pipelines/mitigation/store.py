"""What is finished of a run, by variant: its trained tensors, its log, and how it was judged."""

import json
from typing import Any

from stratoscope.evaluation import Score
from stratoscope.pipelines.mitigation import tables
from stratoscope.pipelines.mitigation.variants import Variant
from stratoscope.pipelines.mitigation.worker import Judgement, LayerSeparation
from stratoscope.results import Storage, from_rows, read_table, write_table

FOLDER = "variants"


class VariantStore:
    """Keeps variants in a run's folder; what is there is whole, and is not made again.

    Args:
        storage: the run's folder.
    """

    def __init__(self, storage: Storage) -> None:
        self._storage = storage

    @staticmethod
    def patch(variant: Variant) -> str:
        """Return the file of a variant's trained tensors."""
        return f"{FOLDER}/{variant.key}.safetensors"

    def trained(self, variant: Variant) -> dict[str, Any] | None:
        """Return what is known of a variant's training, or None where it is not done."""
        name = f"{FOLDER}/{variant.key}.json"
        if not self._storage.exists(name):
            return None
        known: dict[str, Any] = json.loads(self._storage.read(name))
        return known

    def write_trained(self, variant: Variant, facts: dict[str, Any]) -> None:
        """Keep what is known of a training; its tensors are there already."""
        self._storage.write(f"{FOLDER}/{variant.key}.json", json.dumps(facts).encode())

    def is_judged(self, key: str) -> bool:
        """Tell whether a model was judged."""
        return self._storage.exists(f"{FOLDER}/{key}.items.parquet")

    def scores(self, key: str) -> list[Score]:
        """Return how a judged model did, item by item."""
        rows = read_table(self._storage, f"{FOLDER}/{key}.items").to_pylist()
        return [Score(r["dataset"], r["metric"], r["item_id"], r["value"], r["weight"]) for r in rows]

    def separations(self, key: str) -> list[LayerSeparation]:
        """Return how a judged model's layers tell right answers from wrong ones."""
        rows = read_table(self._storage, f"{FOLDER}/{key}.separation").to_pylist()
        return [LayerSeparation(r["dataset"], r["layer"], r["n"], r["gap"], r["closer"]) for r in rows]

    def write_judgement(self, key: str, found: Judgement) -> None:
        """Keep how a model was judged."""
        layers = [(None, None, s.dataset, s.layer, s.n, s.gap, s.closer) for s in found.separations]
        write_table(self._storage, f"{FOLDER}/{key}.separation", from_rows(layers, tables.SEPARATION))
        # Last, for it says that the model was judged.
        items = [(None, None, s.dataset, s.metric, s.item_id, s.value, s.weight) for s in found.scores]
        write_table(self._storage, f"{FOLDER}/{key}.items", from_rows(items, tables.ITEMS))

    def clear(self) -> None:
        """Remove everything, once the run's tables hold it."""
        self._storage.remove(FOLDER)
