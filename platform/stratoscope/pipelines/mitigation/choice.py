"""Where a run's layers come from: numbers, or finished runs, or a hallucination run of its own."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from stratoscope.errors import InputError
from stratoscope.models import ModelFacts, ModelSource, weights_fingerprint
from stratoscope.pipelines.hallucination import HallucinationConfig, HallucinationJob
from stratoscope.pipelines.mitigation.config import EVERY, FLAGGED, RANDOM, MitigationConfig
from stratoscope.pipelines.mitigation.variants import (
    Variant,
    dropped_layers,
    flagged_layers,
    given_layers,
    healing,
    mending,
    parse_layers,
)
from stratoscope.pipelines.runtime.run_lookup import open_finished
from stratoscope.pipelines.search.pruning.statistics import FinishedScore
from stratoscope.results import Manifest, Storage, read_table

if TYPE_CHECKING:
    from stratoscope.pipelines.mitigation.run import MitigationJob


@dataclass(frozen=True)
class LayerChoice:
    """The runs and numbers that a configuration takes layers from."""

    config: MitigationConfig
    num_layers: int
    flags: tuple[Storage, Manifest] | None = None
    """A hallucination run."""
    score: FinishedScore | None = None

    @classmethod
    def open(cls, config: MitigationConfig, source: ModelSource, facts: ModelFacts) -> "LayerChoice":
        """Open the runs that are named, and see that they say what they are asked for.

        Raises:
            InputError: a run is missing, unfinished, of another model, or says nothing of it; or a number is wrong.
        """
        flags, score = None, None
        if config.layers is not None and parse_layers(config.layers, facts.num_layers, "layers") is None:
            flags = open_finished(config.layers, config.output, "hallucination", "layers")
            _check_same(flags[1], source, "layers", config)
            flagged_layers(*flags, config.flags)
        if config.drop is not None and parse_layers(config.drop, facts.num_layers, "drop") is None:
            score = FinishedScore(*open_finished(config.drop, config.output, "score", "drop"))
            _check_same(score.manifest, source, "drop", config)
            dropped_layers(score, config.drop, config.drops)
        elif config.drop is not None and len(parse_layers(config.drop, facts.num_layers, "drop") or ()) == (
            facts.num_layers
        ):
            raise InputError(f"drop: dropping all {facts.num_layers} layers leaves none")
        if config.tune.num_layers and flags is None and config.layers is not None:
            raise InputError(
                "tune.num_layers: layers are given by number; name a hallucination run in layers to try more"
            )
        return cls(config, facts.num_layers, flags, score)

    @property
    def lacks_flags(self) -> bool:
        """Whether a hallucination run has to be made first."""
        config = self.config
        wanted = not config.healing and any(name in (FLAGGED, RANDOM) for name in config.compare)
        return wanted and config.layers is None and self.flags is None

    def with_flags(self, job: "MitigationJob") -> "LayerChoice":
        """Make a hallucination run of the job's pairs in its folder, or go on with it."""
        config = self.config
        fields = {
            "output": job.context.storage.url("flags"),
            "run_id": "flags",
            "seed": config.seed,
            "model": config.model.model_dump(mode="json"),
            "pairs": config.pairs.model_dump(mode="json"),
        }
        context = job.context
        made = HallucinationJob(HallucinationConfig.model_validate(fields), context.terminal, context.stopping)
        made.perform()
        return LayerChoice(config, self.num_layers, (made.context.storage, made.context.manifest), self.score)

    def seen(self) -> frozenset[str]:
        """Return the ids of questions and prompts that layers were chosen by."""
        seen: frozenset[str] = frozenset()
        if self.flags is not None:
            seen |= frozenset(read_table(self.flags[0], "answers")["question_id"].to_pylist())
        if self.score is not None:
            seen |= self.score.calibrated
        return seen

    def variants(self) -> list[Variant]:
        """Return the models that are to be trained."""
        config, seeds = self.config, self.config.train.seeds
        given = parse_layers(config.layers, self.num_layers, "layers") if config.layers else None
        layers = flagged_layers(*self.flags, config.flags) if self.flags is not None else given
        if config.drop is None:
            return mending(config.compare, layers or (), self.num_layers, seeds)
        if self.score is not None:
            return healing(dropped_layers(self.score, config.drop, config.drops), layers, self.num_layers, seeds)
        numbers = parse_layers(config.drop, self.num_layers, "drop") or ()
        return healing(given_layers(numbers), layers, self.num_layers, seeds)

    def most_trained(self) -> int:
        """Return the most layers that a variant trains, as far as can be told before flags are made."""
        if self.lacks_flags:
            return self.num_layers if EVERY in self.config.compare else self.config.flags.num_layers or self.num_layers
        return max(len(v.layers) for v in self.variants())

    def flagged(self, number: int) -> tuple[int, ...]:
        """Return so many flagged layers.

        Raises:
            InputError: the run has none to give.
        """
        if self.flags is None:
            raise InputError("tune.num_layers needs a hallucination run in layers")
        return flagged_layers(*self.flags, self.config.flags.model_copy(update={"num_layers": number}))


def _check_same(manifest: Manifest, source: ModelSource, field: str, config: MitigationConfig) -> None:
    if manifest.fingerprints["weights"] != weights_fingerprint(source):
        raise InputError(
            f"{field} {getattr(config, field)!r} is a run of another model than {config.model.source!r}; make one of "
            "this model"
        )
