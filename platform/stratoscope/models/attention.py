"""Whether a model has the attention implementation that a configuration names."""

from typing import TYPE_CHECKING

from stratoscope.errors import InputError, first_line, suggest

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def check_attention(network: "PreTrainedModel", attention: str, *, here: bool = True) -> None:
    """Check that a network can be loaded with an attention implementation.

    Args:
        network: the network, which needs no weights.
        attention: name of the implementation, as transformers has it.
        here: whether this machine loads the model, rather than other nodes, which may have other packages.

    Raises:
        InputError: transformers or the network does not have it, or a package for it is missing here.
    """
    from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

    try:
        network._check_and_adjust_attn_implementation(attention)
    except ImportError as error:
        if here:
            raise InputError(f"model.attention {attention!r}: {first_line(error)}") from error
    except (ValueError, OSError) as error:
        known = ["eager", *ALL_ATTENTION_FUNCTIONS.valid_keys()]
        hint = f" ({type(network).__name__})" if attention in known else ""
        raise InputError(
            f"model.attention {attention!r} is not available for the model{hint}"
            f"{suggest(attention, [name for name in known if '|' not in name], 'implementations')}"
        ) from error
