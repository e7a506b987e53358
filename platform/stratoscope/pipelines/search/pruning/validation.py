"""After the search: the front on held-out items, the chosen set against random ones, its checkpoint, and the tables."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import TYPE_CHECKING, Any

from stratoscope.evaluation import Estimate, TaskItems, TaskScores, by_task, mean_gain
from stratoscope.execution import Service
from stratoscope.pipelines.search.pruning import tables
from stratoscope.pipelines.search.pruning.checkpoint import export_chosen
from stratoscope.pipelines.search.pruning.rows import compared_row, interval_columns, trial_row
from stratoscope.pipelines.search.pruning.store import EvaluationStore
from stratoscope.pipelines.search.pruning.worker import Evaluation, ModelSize, PruningEvaluatorSettings
from stratoscope.pruning.selection import (
    AgainstRandom,
    TaskComparison,
    TrialResult,
    choose,
    compare,
    estimate_text,
    pareto_front,
    random_sets,
)
from stratoscope.results import from_rows, write_table

if TYPE_CHECKING:
    from stratoscope.pipelines.search.pruning.run import SearchJob

SEARCH, HELD_OUT = "search", "held_out"
Layers = tuple[int, ...]


class Validator:
    """Proves what a search has found.

    Args:
        job: whose configuration, folder and manifest are used.
        service: the evaluators.
        settings: theirs.
        tasks: with their items.
    """

    def __init__(
        self, job: "SearchJob", service: Service, settings: PruningEvaluatorSettings, tasks: Sequence[TaskItems]
    ) -> None:
        self._job, self._service, self._settings = job, service, settings
        self._config, self._storage = job.config, job.context.storage
        self._metrics = {task.name: task.metric for task in tasks}
        self._store = EvaluationStore(self._storage)

    def prove(self, trials: Sequence[TrialResult]) -> None:
        """Evaluate, compare, export, and write the tables."""
        front = pareto_front(trials)
        chosen = choose(front, self._config.search.keep)
        size: ModelSize = self._service.call("size")
        speeds = self._speeds(trials, size)
        reference = self._reference(trials, chosen)
        held_out = self._held_out([*front, *([reference] if reference else [])])
        compared = self._compare_all(trials, front, chosen, reference)
        facts: dict[str, Any] = {"verdicts": [], "parameters": size.total, "tokens_per_s": speeds[size.total]}
        if chosen is None:
            facts["verdicts"].append("No trial has a retention, so nothing was chosen.")
        else:
            facts["verdicts"] += _no_better_than_chance(compared)
            compared += self._against_random(chosen, held_out, facts)
            facts["verdicts"] += self._selection(chosen, reference, held_out)
            facts["chosen"] = {"trial_id": chosen.trial_id, "dropped": list(chosen.dropped)}
        tasks = list(self._metrics)
        rows = [trial_row(trial, tasks, self._config.target, size, speeds) for trial in trials]
        schema = tables.trials_schema(tasks)
        write_table(self._storage, "trials", from_rows(rows, schema))
        front_rows = [
            [
                *trial_row(trial, tasks, self._config.target, size, speeds),
                *interval_columns(held_out[trial.dropped].raw),
                *interval_columns(held_out[trial.dropped].above_chance),
                trial is chosen,
            ]
            for trial in front
        ]
        write_table(self._storage, "front", from_rows(front_rows, tables.front_schema(tasks)))
        write_table(self._storage, "comparison", from_rows(map(compared_row, compared), tables.COMPARISON))
        if chosen is not None and self._config.final.export:
            url, pairs = export_chosen(self._service, self._config, self._job.context.folder, chosen, compared)
            facts["exported"] = url
            write_table(self._storage, "speed", from_rows([list(asdict(p).values()) for p in pairs], tables.SPEED))
        facts["against_variance"] = self._against_variance(trials)
        self._job.context.manifest.facts |= facts

    def _held_out(self, trials: Sequence[TrialResult]) -> dict[Layers, Evaluation]:
        sets = list(dict.fromkeys(trial.dropped for trial in trials))
        outcomes = self._service.map("evaluate", [(dropped, HELD_OUT) for dropped in sets])
        return dict(zip(sets, outcomes, strict=True))

    def _speeds(self, trials: Sequence[TrialResult], size: ModelSize) -> dict[int, float]:
        """Return tokens per second by parameters left: sets that leave as many are as fast as each other."""
        sets: dict[int, Layers] = {size.without(d): d for d in [(), *(trial.dropped for trial in trials)]}
        # One after the other, for two at once on a machine would slow each other down.
        return {left: self._service.call("speed", dropped) for left, dropped in sets.items()}

    def _reference(self, trials: Sequence[TrialResult], chosen: TrialResult | None) -> TrialResult | None:
        """Return the plain choice that the chosen set is held against: AVSS at the first settings, of the same size."""
        if chosen is None:
            return None
        same = [t for t in trials if t.status == "done" and t.candidate and len(t.dropped) == len(chosen.dropped)]
        return next((t for t in same if t.candidate and t.candidate.metric == "avss"), next(iter(same), None))

    def _scores(self, dropped: Layers, part: str) -> dict[str, TaskScores]:
        items = self._settings.slices(part)
        return by_task([score for s in items for score in self._store.read(dropped, s) or []])

    def _compare(self, kind: str, dropped: Layers, part: str, chance: Mapping[str, float]) -> list[TaskComparison]:
        scores = self._scores((), part), self._scores(dropped, part)
        return compare((kind, dropped, part), scores, chance, self._metrics, self._settings.resampling)

    def _compare_all(
        self,
        trials: Sequence[TrialResult],
        front: Sequence[TrialResult],
        chosen: TrialResult | None,
        reference: TrialResult | None,
    ) -> list[TaskComparison]:
        """Compare every finished trial on the items of the search, and those that matter on held-out ones too."""
        kinds: dict[Layers, str] = {trial.dropped: "front" for trial in front}
        if reference:
            kinds.setdefault(reference.dropped, "reference")
        if chosen:
            kinds[chosen.dropped] = "chosen"
        others = {trial.dropped: "trial" for trial in trials if trial.status == "done"}
        rows = []
        for part, sets in ((SEARCH, others | kinds), (HELD_OUT, kinds)):
            chance = self._service.call("chance", part)
            for dropped, kind in sets.items():
                rows += self._compare(kind, dropped, part, chance)
        return rows

    def _against_random(
        self, chosen: TrialResult, held_out: Mapping[Layers, Evaluation], facts: dict[str, Any]
    ) -> list[TaskComparison]:
        sets = random_sets(
            len(self._service.call("size").by_layer),
            len(chosen.dropped),
            self._config.final.random_sets,
            self._config.seed,
            chosen.dropped,
        )
        outcomes: list[Evaluation] = self._service.map("evaluate", [(dropped, HELD_OUT) for dropped in sets])
        against = AgainstRandom(held_out[chosen.dropped].raw.value, tuple(o.raw.value for o in outcomes))
        facts["verdicts"].append(against.verdict)
        facts["against_random"] = {"chosen": against.chosen, "random": list(against.random), "p": against.p_value}
        chance = self._service.call("chance", HELD_OUT)
        return [row for dropped in sets for row in self._compare("random", dropped, HELD_OUT, chance)]

    def _selection(
        self, chosen: TrialResult, reference: TrialResult | None, held_out: Mapping[Layers, Evaluation]
    ) -> list[str]:
        """Say how much of what the search gained was the luck of its items."""
        if chosen.outcome is None:
            return []
        searched, held = chosen.outcome.raw.value, held_out[chosen.dropped].raw.value
        lines = [
            f"The chosen set keeps {searched:.1%} on the items of the search and {held:.1%} on held-out ones "
            f"({estimate_text(held_out[chosen.dropped].raw)})."
        ]
        if reference is None or reference.outcome is None or reference.dropped == chosen.dropped:
            return lines
        gains = [self._gain(reference.dropped, chosen.dropped, part) for part in (SEARCH, HELD_OUT)]
        texts = [f"{100 * g.value:+.1f} points ({100 * g.low:+.1f} to {100 * g.high:+.1f})" for g in gains]
        metric = reference.candidate.metric if reference.candidate else "the reference"
        noise = "" if gains[1].low > 0 or gains[1].high < 0 else ", which is within noise"
        lines.append(
            f"Against plain {metric} of the same size it gains {texts[0]} on the items of the search and {texts[1]} on "
            f"held-out ones{noise}: {100 * (gains[0].value - gains[1].value):.1f} points of the gain were selection."
        )
        return lines

    def _gain(self, one: Layers, other: Layers, part: str) -> Estimate:
        whole, first, second = (self._scores(dropped, part) for dropped in ((), one, other))
        return mean_gain(whole, first, second, self._settings.resampling)

    def _against_variance(self, trials: Sequence[TrialResult]) -> list[str]:
        """Say what dividing by sparsity adds to variance alone, ratio by ratio, where both were tried at one tap."""
        lines = []
        done = {t.candidate: t for t in trials if t.status == "done" and t.candidate and not t.candidate.contiguous}
        for candidate, trial in done.items():
            alone = replace(candidate, metric="variance", epsilon_kind=None, epsilon=None)
            if candidate.metric != "avss" or alone not in done:
                continue
            epsilon = f"epsilon {candidate.epsilon:.3g}"
            where = f"{candidate.tap}, {candidate.variance}, {epsilon}, ratio {candidate.ratio:g}"
            if trial.dropped == done[alone].dropped:
                lines.append(f"{where}: AVSS and variance alone drop the same layers.")
                continue
            gain = self._gain(done[alone].dropped, trial.dropped, SEARCH)
            noise = "" if gain.low > 0 or gain.high < 0 else ", within noise"
            lines.append(
                f"{where}: AVSS retains {100 * gain.value:+.1f} points more than variance alone "
                f"({100 * gain.low:+.1f} to {100 * gain.high:+.1f}{noise})."
            )
        return lines


def _no_better_than_chance(compared: Sequence[TaskComparison]) -> list[str]:
    """Name the tasks on which there is nothing to retain."""
    of_chosen = [c for c in compared if c.kind == "chosen" and c.part == HELD_OUT]
    tasks = [c.task for c in of_chosen if c.retention.above_chance.missing]
    if not tasks:
        return []
    return [
        f"On {', '.join(tasks)} the whole model is not above chance on held-out items: raw retention says little there."
    ]
