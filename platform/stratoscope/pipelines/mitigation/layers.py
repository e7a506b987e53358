"""The layers of a run's variants: given as numbers, chosen by finished runs, or flagged by the run itself."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from stratoscope.digest import digest
from stratoscope.errors import InputError
from stratoscope.mitigation import (
    EVERY,
    FLAGGED,
    GIVEN,
    RANDOM,
    LayerFlag,
    LayersBySeed,
    Variant,
    fine_tuning_variants,
    parse_layers,
    rank_flagged,
    recovery_variants,
)
from stratoscope.models import ModelFacts, ModelSource, weights_fingerprint
from stratoscope.pipelines.hallucination import HallucinationConfig, HallucinationJob
from stratoscope.pipelines.mitigation.config import DropsSection, FlagsSection, MitigationConfig
from stratoscope.pipelines.runtime.context import RunContext
from stratoscope.pipelines.runtime.run_lookup import open_finished
from stratoscope.pipelines.search.pruning.statistics import FinishedScore, all_scores, check_statistics
from stratoscope.pruning import PruningSpace
from stratoscope.results import Manifest, Run
from stratoscope.scoring import select_layers
from stratoscope.tables.hallucination import HallucinationScoreRow


@dataclass(frozen=True)
class LayerChoice:
    """The numbers and runs from which a configuration takes layers."""

    config: MitigationConfig
    num_layers: int
    layers: tuple[int, ...] | None
    """Layers to train that are given as numbers."""
    dropped: tuple[int, ...] | None
    """Dropped layers that are given as numbers."""
    flags: Run | None = None
    """A hallucination run, which flags the layers to train."""
    score: FinishedScore | None = None
    """A score run, which ranks the layers to drop."""
    protected: tuple[int, ...] = ()
    """Layers that cannot be dropped."""

    @property
    def lacks_flags(self) -> bool:
        """Whether a hallucination run has to be computed first."""
        config = self.config
        wanted = not config.recovery and any(name in (FLAGGED, RANDOM) for name in config.compare)
        return wanted and config.layers is None and self.flags is None

    @property
    def seen(self) -> frozenset[str]:
        """Ids of the questions and prompts that were used to choose layers."""
        questions = self.flags.table("answers")["question_id"].to_pylist() if self.flags is not None else []
        return frozenset(questions) | (self.score.calibrated if self.score is not None else frozenset())

    @property
    def most_layers(self) -> int:
        """Largest number of layers that a variant trains. Before flags are computed, this is an upper bound."""
        if self.lacks_flags:
            return self.num_layers if EVERY in self.config.compare else self.config.flags.num_layers or self.num_layers
        return max(len(variant.layers) for variant in self.variants())

    @property
    def flagged(self) -> dict[int, tuple[int, ...]]:
        """Flagged layers by how many there are, for each number of layers in the search space."""
        if self.flags is None:
            return {}
        section = self.config.flags
        return {
            number: flagged_layers(self.flags, section.model_copy(update={"num_layers": number}))
            for number in self.config.tune.num_layers
        }

    @property
    def fingerprint(self) -> str:
        """Digest of the layers that each variant trains and drops, and of those that the search may choose."""
        layers = {variant.key: [variant.layers, variant.dropped] for variant in self.variants()}
        return digest({"variants": layers, "flagged": self.flagged})

    def variants(self) -> list[Variant]:
        """Return the variants that the run trains."""
        config, seeds = self.config, self.config.train.seeds
        layers = flagged_layers(self.flags, config.flags) if self.flags is not None else self.layers
        if config.drop is None:
            names = [GIVEN if name == FLAGGED and self.layers is not None else name for name in config.compare]
            return fine_tuning_variants(names, layers or (), self.num_layers, seeds)
        if self.score is not None:
            dropped = dropped_layers(self.score, config.drop, config.drops, self.protected)
        else:
            dropped = {GIVEN: lambda _seed: self.dropped or ()}
        return recovery_variants(dropped, layers, self.num_layers, seeds)

    def chosen_by(self, variant: Variant) -> str:
        """Return a description of how a variant's layers were chosen, for the model card."""
        if variant.name == GIVEN:
            return "hand (given as numbers)"
        if variant.dropped:
            return f"`{variant.name}`"
        return {FLAGGED: "EAVSS of a hallucination run", RANDOM: "chance", EVERY: "taking all"}[variant.name]


def open_choice(
    config: MitigationConfig, source: ModelSource, facts: ModelFacts, protected: tuple[int, ...] = ()
) -> LayerChoice:
    """Open the runs that a configuration names, and check that they have what it needs.

    Raises:
        InputError: a run is missing, unfinished, of another model, or lacks the layers; or a number is not a layer.
    """
    flags, score = None, None
    layers = None if config.layers is None else parse_layers(config.layers, facts.num_layers, "layers")
    dropped = None if config.drop is None else parse_layers(config.drop, facts.num_layers, "drop")
    if config.layers is not None and layers is None:
        flags = Run(*open_finished(config.layers, config.output, "hallucination", "layers"))
        _check_same_model(flags.manifest, source, "layers", config)
        flagged_layers(flags, config.flags)
    if config.drop is not None and dropped is None:
        score = FinishedScore(*open_finished(config.drop, config.output, "score", "drop"))
        _check_same_model(score.manifest, source, "drop", config)
        dropped_layers(score, config.drop, config.drops, protected)
    elif dropped is not None and len(dropped) == facts.num_layers:
        raise InputError(f"drop: dropping all {facts.num_layers} layers leaves none")
    elif needed := sorted({*(dropped or ())} & {*protected}):
        raise InputError(f"drop: layer {needed[0]} cannot be dropped, because the others depend on it; keep it")
    if config.tune.num_layers and layers is not None:
        raise InputError("tune.num_layers: layers are given by number; name a hallucination run in layers instead")
    return LayerChoice(config, facts.num_layers, layers, dropped, flags, score, protected)


def flag_layers(context: RunContext, choice: LayerChoice) -> LayerChoice:
    """Compute a hallucination run of the job's pairs in the run's folder, or resume it."""
    config = choice.config
    fields = {
        "output": context.storage.url("flags"),
        "run_id": "flags",
        "seed": config.seed,
        "model": config.model.model_dump(mode="json"),
        "pairs": config.pairs.model_dump(mode="json"),
    }
    job = HallucinationJob(HallucinationConfig.model_validate(fields), context.terminal, context.stopping)
    job.perform()
    return replace(choice, flags=job.context.run)


def flagged_layers(run: Run, section: FlagsSection) -> tuple[int, ...]:
    """Return the layers that a hallucination run flags.

    Raises:
        InputError: the run has no such tap, definition, part or data set, has several parts and none is named, or flags
            no layer.
    """
    scores = HallucinationScoreRow.read(run.table("hallucination_scores"))
    tap = str(section.tap or scores[0].tap)
    definition = section.definition or scores[0].definition
    _check_known(run, "flags.tap", [tap], sorted({score.tap for score in scores}))
    _check_known(run, "flags.definition", [definition], sorted({score.definition for score in scores}))
    part = _part(run, section, [score.part for score in scores])
    rows = [
        LayerFlag(dataset=s.dataset, layer=s.layer, flagged=s.flagged, propensity=s.propensity)
        for s in scores
        if (s.tap, s.definition, s.part) == (tap, definition, part)
    ]
    datasets = list(dict.fromkeys(row.dataset for row in rows))
    _check_known(run, "flags.datasets", section.datasets, datasets)
    flags = [row for row in rows if row.dataset in (section.datasets or datasets)]
    layers = rank_flagged(flags, run.manifest.facts["num_layers"], section.num_layers)
    if not layers:
        raise InputError(
            f"layers: the run {run.url} flags no layer at tap {tap}; give flags.num_layers to take those of the "
            "highest propensity"
        )
    return layers


def _part(run: Run, section: FlagsSection, parts: Sequence[str]) -> str:
    """Return the part whose scores flag the layers.

    Raises:
        InputError: the run has no such part, or several and none is named.
    """
    known = list(dict.fromkeys(parts))
    if section.part is None and len(known) > 1:
        raise InputError(
            f"flags.part: the run {run.url} contrasts several parts ({', '.join(known)}); name one of them"
        )
    part = section.part or known[0]
    _check_known(run, "flags.part", [part], known)
    return part


def _check_known(run: Run, field: str, wanted: list[str], known: list[str]) -> None:
    for name in wanted:
        if name not in known:
            raise InputError(f"{field}: the run {run.url} has none called {name!r}; it has {', '.join(known)}")


def dropped_layers(
    run: FinishedScore, name: str, section: DropsSection, protected: Sequence[int] = ()
) -> dict[str, LayersBySeed]:
    """Return, for each metric, the layers that a score run ranks lowest. For `random`, they depend on the seed.

    Args:
        run: the score run.
        name: name of the run in the configuration, for messages.
        section: the metrics, and the share of layers to drop.
        protected: layers that cannot be dropped.

    Raises:
        InputError: the run lacks what a metric needs.
    """
    space = PruningSpace(
        metrics=tuple(section.metrics),
        taps=(str(section.tap),),
        ratios=(section.ratio,),
        epsilons=(section.epsilon,),
    )
    check_statistics(run, space, name)
    return {metric: partial(_lowest_layers, run, space, metric, protected) for metric in section.metrics}


def _lowest_layers(
    run: FinishedScore, space: PruningSpace, metric: str, protected: Sequence[int], seed: int
) -> tuple[int, ...]:
    only = replace(space, metrics=(metric,))
    scores = next(iter(all_scores(run, only, seed).values())).without(protected)
    return select_layers(scores.values, space.ratios[0], high_is_important=scores.high_is_important)


def _check_same_model(manifest: Manifest, source: ModelSource, field: str, config: MitigationConfig) -> None:
    if manifest.fingerprints["weights"] != weights_fingerprint(source):
        raise InputError(
            f"{field} {getattr(config, field)!r} is a run of another model than {config.model.source!r}; compute one "
            "for this model"
        )
