"""Measure whether flagged layers matter for hallucination: what their use changes, against random layers of equal norm.

Three uses, on questions that flagged nothing: the contribution of the flagged layers is removed (scaled by 0), halved
(scaled by .5), or their early exits are contrasted with the last layer (log-probabilities of the whole model minus
those of the model without the layers above a flagged one, as in DoLa, arXiv 2309.03883). Random sets have as many
layers, each drawn from the unflagged layers whose contributions are nearest in norm. The outcome is pairwise: how often
a right answer is more likely per token than a wrong one; its change is compared question by question. Removing each
layer alone shows where flags lie among the layers' effects.

usage: python benchmarks/flagged_layers.py RUN --output FOLDER [--questions N] [--sets N] [--datasets NAME ...]
       [--dtype NAME] [--no_singles]

RUN is the folder of a hallucination run. Results go to one JSON file for each data set; those that exist are kept, so
that the command resumes. `--table` prints them.
"""

import argparse
import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr
from torch import nn

import stratoscope
from stratoscope.data import Question, load_pairs
from stratoscope.evaluation import score_question
from stratoscope.evaluation.likelihood import Likelihood, Scorer
from stratoscope.evaluation.rows import Batch, Request
from stratoscope.models import LoadedModel, encode_pair, load_model
from stratoscope.pipelines.hallucination.config import HallucinationConfig
from stratoscope.pipelines.runtime.config import validate
from stratoscope.statistics import bootstrap_weights

DEFINITION, TAP, PART, PROPENSITY = "dprime", "attention", "last", 2.0
"""The definition of flags that was found on TruthfulQA, SciQ and NQ-open (docs/results/hallucination.md)."""
NEAREST = 8
"""Unflagged layers, nearest in norm, from which a layer of a random set is drawn."""
CACHE_BYTES = 2 * 10**9
DRAWS, SEED = 9999, 0
USES = ("removed", "halved", "contrast")


@dataclass(frozen=True)
class Material:
    """Questions as requests of a scorer."""

    questions: tuple[Question, ...]
    batches: list[Batch]
    ends: list[int]
    """Number of the first request of each question, followed by the number of all requests."""

    def pairwise(self, likelihoods: dict[int, Likelihood]) -> NDArray[np.float64]:
        """Return, for each question, how often a right answer is more likely per token than a wrong one."""
        scores = [
            score_question(question, [likelihoods[i] for i in range(start, end)])
            for question, (start, end) in zip(self.questions, pairwise(self.ends), strict=True)
        ]
        return np.array([next(s.value for s in own if s.metric == "pairwise") for own in scores])


def read_questions(run: stratoscope.HallucinationRun, dataset: str, number: int) -> tuple[Question, ...]:
    """Return the first questions of a data set, in the seeded order of the run, that the run did not read."""
    config = validate(HallucinationConfig, run.manifest.config)
    seen = set(run.table("answers")["question_id"].to_pylist())
    pairs = config.pairs.model_copy(update={"limit": None})
    questions = load_pairs(pairs.to_sources(), pairs.to_choice(config.seed))
    chosen = [q for q in questions if q.dataset == dataset and q.question_id not in seen]
    return tuple(chosen[:number])


def encode(model: LoadedModel, scorer: Scorer, questions: Sequence[Question]) -> Material:
    """Encode each question with its answers."""
    requests = [
        Request(*map(tuple, encode_pair(model.tokenizer, question.prompt, f" {answer.text}")))
        for question in questions
        for answer in question.answers
    ]
    ends = [0, *np.cumsum([len(question.answers) for question in questions]).tolist()]
    return Material(tuple(questions), scorer.batches(requests), ends)


def flagged_layers(run: stratoscope.HallucinationRun, dataset: str) -> tuple[tuple[int, ...], NDArray[np.float64]]:
    """Return the layers whose propensity is above the threshold, and the propensities of all."""
    rows = [
        row
        for row in run.table("hallucination_scores").to_pylist()
        if (row["dataset"], row["definition"], row["tap"], row["part"]) == (dataset, DEFINITION, TAP, PART)
    ]
    propensity = np.zeros(len(rows))
    for row in rows:
        propensity[row["layer"]] = row["propensity"]
    return tuple(np.flatnonzero(propensity > PROPENSITY).tolist()), propensity


def contribution_norms(model: LoadedModel, material: Material) -> NDArray[np.float64]:
    """Return the mean norm of what each layer adds to the residual stream, over the tokens of all batches."""
    norms = np.zeros(len(model.anatomy))

    def measure(layer: int, inputs: Any, output: Any) -> None:
        state = output[0] if isinstance(output, tuple) else output
        norms[layer] += float((state - inputs[0]).norm(dim=-1).mean()) / len(material.batches)

    handles = [
        block.module.register_forward_hook(lambda _module, inputs, output, i=i: measure(i, inputs, output))
        for i, block in enumerate(model.anatomy.blocks)
    ]
    with torch.inference_mode():
        for batch in material.batches:
            model.backbone(batch.ids, use_cache=False)
    for handle in handles:
        handle.remove()
    return norms


@contextmanager
def scaled(model: LoadedModel, layers: Sequence[int], factor: float) -> Iterator[None]:
    """Scale what layers add to the residual stream while the block runs."""

    def scale(_module: nn.Module, inputs: Any, output: Any) -> Any:
        state = output[0] if isinstance(output, tuple) else output
        changed = inputs[0] + factor * (state - inputs[0])
        return (changed, *output[1:]) if isinstance(output, tuple) else changed

    handles = [model.anatomy.blocks[i].module.register_forward_hook(scale) for i in layers]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def random_sets(flagged: Sequence[int], norms: NDArray[np.float64], number: int) -> list[tuple[int, ...]]:
    """Return sets of as many unflagged layers, each near a flagged one in norm."""
    generator = np.random.default_rng(SEED)
    sets = []
    for _ in range(number):
        chosen: list[int] = []
        for layer in flagged:
            distance = np.abs(np.log(norms / norms[layer]))
            distance[[*flagged, *chosen]] = np.inf
            chosen.append(int(generator.choice(np.argsort(distance)[:NEAREST])))
        sets.append(tuple(sorted(chosen)))
    return sets


class Effects:
    """Measures sets of layers on the questions of one data set.

    Args:
        model: the model.
        questions: the questions.
    """

    def __init__(self, model: LoadedModel, questions: Sequence[Question]) -> None:
        self._model, self._scorer = model, Scorer(model, 2048)
        self.material = encode(model, self._scorer, questions)
        self._whole = self._score((), CACHE_BYTES)
        self.base = self.material.pairwise(self._whole)
        num_layers = len(model.anatomy)
        self._early = [self._score(range(layer + 1, num_layers)) for layer in range(num_layers - 1)]

    def removed(self, layers: Sequence[int]) -> NDArray[np.float64]:
        """Return the outcome without the layers."""
        return self.material.pairwise(self._score(layers))

    def halved(self, layers: Sequence[int]) -> NDArray[np.float64]:
        """Return the outcome with half of what the layers add."""
        with scaled(self._model, layers, 0.5):
            return self.material.pairwise(self._scorer.score(self.material.batches, ()))

    def contrast(self, layers: Sequence[int]) -> NDArray[np.float64]:
        """Return the outcome of the whole model's log-probabilities minus those of the layers' early exits."""
        early = [self._early[layer] for layer in layers if layer < len(self._early)]
        if not early:
            return self.base
        contrasted = {
            i: Likelihood(
                whole.log_likelihood - float(np.mean([e[i].log_likelihood for e in early])), whole.correct, whole.tokens
            )
            for i, whole in self._whole.items()
        }
        return self.material.pairwise(contrasted)

    def _score(self, dropped: Sequence[int], keep_bytes: int = 0) -> dict[int, Likelihood]:
        return self._scorer.score(self.material.batches, tuple(dropped), key="all", keep_bytes=keep_bytes)


def measure(run: stratoscope.HallucinationRun, model: LoadedModel, dataset: str, options: Any) -> dict[str, Any]:
    """Measure all uses on a data set, and return the outcomes of each question."""
    flagged, propensity = flagged_layers(run, dataset)
    effects = Effects(model, read_questions(run, dataset, options.questions))
    norms = contribution_norms(model, effects.material)
    sets = random_sets(flagged, norms, options.sets)
    return {
        "dataset": dataset,
        "flagged": list(flagged),
        "propensity": propensity.tolist(),
        "norms": norms.tolist(),
        "sets": sets,
        "base": effects.base.tolist(),
        "singles": [effects.removed((layer,)).tolist() for layer in range(len(norms))] if options.singles else [],
        "uses": {
            use: {
                "flagged": getattr(effects, use)(flagged).tolist(),
                "random": [getattr(effects, use)(layers).tolist() for layers in sets],
            }
            for use in USES
        },
    }


def show(result: dict[str, Any]) -> None:
    """Print the rows of a data set."""
    base = np.array(result["base"])
    weights = bootstrap_weights(len(base), DRAWS, SEED)
    weights = weights / weights.sum(axis=1, keepdims=True)
    for use, outcome in result["uses"].items():
        flagged, random = np.array(outcome["flagged"]), np.array(outcome["random"])
        difference = flagged - random.mean(axis=0)
        low, high = np.quantile(weights @ difference, [0.025, 0.975])
        beaten = int((random.mean(axis=1) < flagged.mean()).sum())
        print(
            f"| {result['dataset']} | {' '.join(map(str, result['flagged']))} | {use} | {base.mean():.3f} "
            f"| {(flagged - base).mean():+.3f} | {(random - base).mean():+.3f} "
            f"| {difference.mean():+.3f} ({low:+.3f} to {high:+.3f}) | {beaten} of {len(random)} |"
        )


def show_layers(result: dict[str, Any]) -> None:
    """Print how strongly the effect of removing a layer correlates with its propensity."""
    effect = np.abs((np.array(result["singles"]) - np.array(result["base"])).mean(axis=1))
    propensity, flagged = np.array(result["propensity"]), result["flagged"]
    correlation = spearmanr(propensity, effect)
    others = np.delete(effect, flagged)
    print(
        f"| {result['dataset']} | {effect[flagged].mean():.3f} | {others.mean():.3f} "
        f"| {correlation.statistic:+.2f} (p = {correlation.pvalue:.2f}) |"
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", help="folder of a hallucination run")
    parser.add_argument("--output", type=Path, required=True, help="folder of the results")
    parser.add_argument("--questions", type=int, default=80)
    parser.add_argument("--sets", type=int, default=20)
    parser.add_argument("--datasets", nargs="+")
    parser.add_argument("--dtype", default="float32")
    parser.add_argument(
        "--no_singles", dest="singles", action="store_false", help="do not measure the removal of each layer alone"
    )
    parser.add_argument("--table", action="store_true", help="print the results that exist, and measure nothing")
    options = parser.parse_args()
    run = stratoscope.open_run(options.run)
    known = [dataset["name"] for dataset in run.manifest.facts["datasets"]]
    names = options.datasets or known
    if not set(names) <= set(known):
        parser.error(f"--datasets: {options.run} has the data sets {', '.join(known)}")
    options.output.mkdir(parents=True, exist_ok=True)
    files = {name: options.output / f"{name}.json" for name in names}
    missing = [] if options.table else [name for name, file in files.items() if not file.exists()]
    if missing:
        model = load_model(run.manifest.config["model"]["source"], dtype=options.dtype, head=True)
        for name in missing:
            files[name].write_text(json.dumps(measure(run, model, name, options)), encoding="utf-8")
            print(f"{name}: measured", flush=True)
    results = [json.loads(file.read_text()) for file in files.values() if file.exists()]
    print("\n| data set | flagged | use | whole model | flagged | random | flagged - random | random sets beaten |")
    print("|---|---|---|---|---|---|---|---|")
    for result in results:
        show(result)
    print(
        "\n| data set | effect of a flagged layer | of another | rank correlation with propensity |\n|---|---|---|---|"
    )
    for result in results:
        if result["singles"]:
            show_layers(result)


if __name__ == "__main__":
    main()
