"""Opening the model that a configuration names, before any weights are loaded."""

from collections.abc import Collection
from dataclasses import dataclass

from stratoscope.activations import Tap
from stratoscope.errors import InputError
from stratoscope.execution import is_local
from stratoscope.models import ModelFacts, ModelSource, describe_model, pin_source, resolve_source, weights_fingerprint
from stratoscope.pipelines.sharded.config import ModelSection


@dataclass(frozen=True)
class OpenedModel:
    """A model that has been resolved, pinned to a revision and described, but not loaded."""

    source: ModelSource
    facts: ModelFacts

    @property
    def weights(self) -> str:
        """Fingerprint of the weights."""
        return weights_fingerprint(self.source)


def open_model(section: ModelSection, *, head: bool = False, trainable: bool = False) -> OpenedModel:
    """Resolve a model, pin its revision and describe it.

    Args:
        section: the section of the configuration that names the model.
        head: whether the model will be loaded with its vocabulary head.
        trainable: whether to refuse a quantised checkpoint, which cannot be trained.

    Raises:
        InputError: the model cannot be resolved or read, or is quantised although it must be trainable.
    """
    source = pin_source(resolve_source(section.source, section.revision))
    facts = describe_model(
        source,
        trust_remote_code=section.trust_remote_code,
        here=is_local(),
        head=head,
        attention=section.attention,
    )
    if trainable and facts.quantisation:
        raise InputError(
            f"model.source {section.source!r} is quantised by {facts.quantisation}, and its layers cannot be trained; "
            "take the checkpoint that it was made from"
        )
    return OpenedModel(source, facts)


def check_taps(taps: Collection[Tap], facts: ModelFacts, field: str) -> None:
    """Check that taps can be read from a model.

    Args:
        taps: the taps.
        facts: the model.
        field: the field of the configuration that names the taps.

    Raises:
        InputError: a tap cannot be read.
    """
    if Tap.MLP_HIDDEN in taps and not facts.shows_hidden:
        raise InputError(f"{field}: mlp_hidden cannot be read from {facts.architecture}; leave it out")
