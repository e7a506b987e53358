"""The terms that reports use, with their definitions; the glossary of the documentation is generated from them."""

import re
from collections.abc import Iterator
from dataclasses import dataclass


@dataclass(frozen=True)
class GlossaryTerm:
    """A term with its definition."""

    name: str
    definition: str
    """A sentence or two."""
    pattern: str = ""
    """Regular expression of the words that a text uses for it; empty for the name itself."""

    @property
    def anchor(self) -> str:
        """Identifier of the term in a page."""
        return "term-" + re.sub(r"\W+", "-", self.name.lower())


TERMS = (
    GlossaryTerm(
        "tap",
        "The place in a layer where activations are read: block (the layer's output), update (what the layer adds to "
        "its input), attention (what its token mixer adds), mlp (what its feed-forward part adds) or mlp_hidden (the "
        "activations inside the feed-forward part).",
        "taps?",
    ),
    GlossaryTerm("block", "The tap at a layer's output: the residual stream after the layer.", "tap block"),
    GlossaryTerm("update", "The tap that reads what a layer adds to its input: output minus input.", "tap update"),
    GlossaryTerm(
        "epsilon",
        "The threshold of sparsity: an activation whose magnitude is below it counts as zero. It is an absolute value, "
        "or a quantile of magnitudes over all layers of a tap.",
    ),
    GlossaryTerm("sparsity", "The share of a layer's activations whose magnitude is below epsilon."),
    GlossaryTerm(
        "AVSS",
        "Activation variance-sparsity score: the variance of a layer's activations, divided by their sparsity. Layers "
        "with a low score are candidates for pruning.",
    ),
    GlossaryTerm(
        "EAVSS",
        "Enhanced AVSS: how much a layer's AVSS differs between wrong and right answers to the same questions.",
    ),
    GlossaryTerm("HSAV", "Hallucination-specific activation variance: the part of EAVSS that compares variances."),
    GlossaryTerm("HSS", "Hallucination-specific sparsity: the part of EAVSS that compares sparsities."),
    GlossaryTerm("propensity", "The absolute EAVSS of a layer, divided by its mean over layers."),
    GlossaryTerm(
        "flagged",
        "A layer whose contrast, adjusted for the length of answers, is significant, and whose propensity exceeds the "
        "threshold.",
    ),
    GlossaryTerm(
        "block influence",
        "1 minus the mean cosine between a layer's input and output: how much the layer turns the residual stream.",
        "block[_ ]influence",
    ),
    GlossaryTerm(
        "split-half",
        "The rank correlation of the scores that two random halves of the prompts give. Where it is low, differences "
        "in rank mean little.",
    ),
    GlossaryTerm(
        "retention",
        "The pruned model's measure divided by the whole model's, on the same items. Raw retention divides the "
        "measures; retention above chance first subtracts what guessing reaches.",
    ),
    GlossaryTerm(
        "front",
        "The candidates that no other candidate beats in both retention and size (the Pareto front).",
        "Pareto front|[Tt]he front|front",
    ),
    GlossaryTerm("held out", "Items that were used for no choice before the final evaluation.", "held[- ]out"),
    GlossaryTerm("mc1", "Share of questions whose first right answer is likelier than every wrong one (TruthfulQA)."),
    GlossaryTerm(
        "mc2",
        "Probability of the right answers, divided by that of all answers, as a mean over questions (TruthfulQA).",
    ),
    GlossaryTerm(
        "pairwise", "Share of pairs of a right and a wrong answer in which the right one is more likely per token."
    ),
    GlossaryTerm(
        "AUROC",
        "Area under the ROC curve: the probability that a wrong answer gets a higher value than a right one. 0.5 is "
        "chance.",
    ),
    GlossaryTerm(
        "bits per byte",
        "Negative log2-likelihood of a text, divided by its bytes in UTF-8. Lower is better; it compares models with "
        "different tokenizers.",
    ),
    GlossaryTerm(
        "interval",
        "A range that contains the true value with the stated confidence, from a paired bootstrap over items unless "
        "the text says otherwise.",
        "intervals?",
    ),
    GlossaryTerm(
        "within noise",
        "The interval of a difference includes 0, so that the data show no difference.",
        "within noise|beyond noise",
    ),
    GlossaryTerm(
        "faithful training",
        "Training after plain training in which forecasts of perturbed inputs must stay close to a teacher's forecasts "
        "of clean ones (Faithful TimeSieve).",
        "[Ff]aithful training",
    ),
    GlossaryTerm(
        "MSE",
        "Mean squared error over all windows, steps and channels, in standard units of the training part.",
        "MSE|mse",
    ),
    GlossaryTerm(
        "MAE",
        "Mean absolute error over all windows, steps and channels, in standard units of the training part.",
        "MAE|mae",
    ),
    GlossaryTerm("horizon", "The number of steps that a forecast covers, written H."),
    GlossaryTerm(
        "drift", "A change of a layer's statistics against an earlier run of the same model.", "drift(?:ed|s)?"
    ),
)


@dataclass(frozen=True)
class TextPart:
    """A part of a text: a term as the text words it, or the text between terms."""

    text: str
    term: GlossaryTerm | None = None


def _pattern(term: GlossaryTerm) -> str:
    return rf"(?<![\w-])(?:{term.pattern or re.escape(term.name)})(?![\w-])"


# Longer terms first, so that 'block influence' is not taken for 'block'.
_ORDERED = sorted(TERMS, key=lambda term: -len(term.name))
_ANY = re.compile("|".join(f"({_pattern(term)})" for term in _ORDERED))


def mark_terms(text: str) -> Iterator[TextPart]:
    """Yield the parts of a text in order; the first mention of each term is a part of its own."""
    mentioned: set[str] = set()
    start = 0
    for match in _ANY.finditer(text):
        term = _ORDERED[(match.lastindex or 1) - 1]
        if term.name in mentioned:
            continue
        mentioned.add(term.name)
        yield TextPart(text[start : match.start()])
        yield TextPart(match.group(), term)
        start = match.end()
    yield TextPart(text[start:])


def terms_in(text: str) -> list[GlossaryTerm]:
    """Return the terms that a text mentions, in alphabetical order."""
    mentioned = {part.term for part in mark_terms(text) if part.term}
    return sorted(mentioned, key=lambda term: term.name.lower())
