"""What each worker of Ray Train runs: the training loop, with its validation."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from stratoscope.evaluation import QuestionEvaluator, Score
from stratoscope.execution import WorkerHost
from stratoscope.mitigation import Corpus, TrainingSettings, Validation, train
from stratoscope.models import LoadedModel
from stratoscope.pipelines.mitigation.dataset import EvaluationSet

OBJECTIVE = "objective"
"""Metric that trials are judged by."""


@dataclass(frozen=True, eq=False)
class Loop:
    """What a worker of Ray Train runs."""

    settings: TrainingSettings
    corpus: Corpus
    judged: EvaluationSet | None
    """What the model is judged on now and then; None for never."""
    batch_tokens: int
    """Most tokens of a batch there."""
    longest: int
    """Most tokens of a sequence there."""

    def __call__(self, host: WorkerHost) -> None:
        """Train."""
        train(self.settings, self.corpus, host, None if self.judged is None else self._validation(self.judged))

    def _validation(self, judged: EvaluationSet) -> Validation:
        made: list[QuestionEvaluator] = []

        def validate(model: LoadedModel) -> dict[str, float]:
            if not made:
                made.append(
                    QuestionEvaluator(
                        model,
                        judged.questions,
                        judged.texts,
                        answered=(),
                        max_batch_tokens=self.batch_tokens,
                        max_length=self.longest,
                    )
                )
            return {OBJECTIVE: objective(made[0].evaluate())}

        return validate


def objective(scores: Sequence[Score]) -> float:
    """Return what trials are to make large: mc2, all data sets counting alike, or the log-likelihood of a token."""
    names = sorted({s.dataset for s in scores if s.metric == "mc2"})
    if names:
        return float(
            np.mean([np.mean([s.value for s in scores if (s.dataset, s.metric) == (name, "mc2")]) for name in names])
        )
    return -sum(s.value for s in scores) / sum(s.weight for s in scores)
