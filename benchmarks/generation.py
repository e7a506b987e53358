"""Measure how many answers a model generates a second: prompts of any lengths together, against nearly equal lengths.

The prompts are SciQ questions; an answer ends with its line, after at most 32 tokens. Both groupings take turns, and
the median of paired ratios is printed. Answers that differ between them are counted: two tokens may be nearly equally
likely, and rounding then decides.

usage: python benchmarks/generation.py [--questions N] [--pairs N] [--device D] [--dtype NAME] [--tokens N]
"""

import argparse
import statistics
import time
from collections.abc import Sequence

from stratoscope.data import PairChoice, PairSource, load_pairs
from stratoscope.evaluation import GenerationPrompt, TextGenerator
from stratoscope.models import MAX_PADDING, bucket, encode_text, load_model

ANSWER_TOKENS = 32


class NearlyEqualLengths(TextGenerator):
    """Generates in batches with at most a tenth of padding."""

    def batches(self, prompts: Sequence[GenerationPrompt]) -> list[list[int]]:
        lengths = [len(prompt.ids) + prompt.max_tokens for prompt in prompts]
        return bucket(lengths, self._max_batch_tokens, MAX_PADDING)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--questions", type=int, default=128)
    parser.add_argument("--pairs", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--tokens", type=int, default=2048)
    given = parser.parse_args()
    model = load_model("smollm2", given.device, given.dtype, head=True)
    questions = load_pairs([PairSource("sciq")], PairChoice(limit=given.questions, seed=0))
    prompts = [
        GenerationPrompt(tuple(encode_text(model.tokenizer, question.prompt)), ("\n",), ANSWER_TOKENS)
        for question in questions
    ]
    generators = (TextGenerator(model, given.tokens), NearlyEqualLengths(model, given.tokens))
    answers = [generator.answer(prompts[:8]) for generator in generators]  # warms up
    ratios, rates = [], []
    for number in range(given.pairs):
        seconds = [0.0, 0.0]
        for side in (0, 1) if number % 2 else (1, 0):
            started = time.perf_counter()
            answers[side] = generators[side].answer(prompts)
            seconds[side] = time.perf_counter() - started
        ratios.append(seconds[1] / seconds[0])
        rates.append(len(prompts) / seconds[0])
    unlike = sum(one != other for one, other in zip(*answers, strict=True))
    spread = f"{min(ratios):.2f} to {max(ratios):.2f}, {given.pairs} pairs"
    print(f"{statistics.median(rates):.1f} answers/s; by batches of nearly equal lengths / together, in time:")
    print(f"{statistics.median(ratios):.2f} ({spread}); {unlike} of {len(prompts)} answers differ")


if __name__ == "__main__":
    main()
