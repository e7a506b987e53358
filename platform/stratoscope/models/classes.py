"""The transformers class that a configuration is loaded with, and an instance of it without weights."""

import inspect
from typing import TYPE_CHECKING, Any

import torch
from torch.overrides import TorchFunctionMode

from stratoscope.errors import InputError, first_line

if TYPE_CHECKING:
    from transformers import PreTrainedModel

DECODER_LAYERS = {"decoder_layers": "encoder_layers", "num_decoder_layers": "num_encoder_layers"}
"""Fields for the numbers of decoder and encoder layers of architectures with both."""
RANDOM_FILLS = ("normal_", "uniform_", "trunc_normal_", "kaiming_uniform_")
"""Names of functions that fill a tensor with random values; transformers has its own of these names."""


def declared_class(config: Any) -> Any:
    """Return the class of transformers that a configuration declares, or None if it declares no fitting class."""
    import transformers
    from transformers.models.auto import modeling_auto

    names = getattr(config, "architectures", None) or []
    if not names or getattr(config, "auto_map", None):
        return None  # without the field, or with code of its own, the automatic classes decide
    declared = getattr(transformers, names[0], None)
    expected = getattr(declared, "config_class", None)
    if not isinstance(expected, type) or isinstance(config, expected):
        return declared
    # Some configurations are loaded with the classes of another type.
    mappings = (modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING)
    shared = any(declared in _mapped(mapping, config) for mapping in mappings)
    bases = [getattr(base, "config_class", None) for base in _mapped(modeling_auto.MODEL_MAPPING, config)]
    return declared if shared or expected in bases else None


def class_with_head(config: Any) -> Any:
    """Return the class that a causal language model is loaded with, or None if the configuration describes none.

    The declared class comes first, because some configurations have both a causal language model and an image-text
    model.
    """
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText
    from transformers.models.auto import modeling_auto

    causal = _mapped(modeling_auto.MODEL_FOR_CAUSAL_LM_MAPPING, config)
    image_text = _mapped(modeling_auto.MODEL_FOR_IMAGE_TEXT_TO_TEXT_MAPPING, config)
    own_code = getattr(config, "auto_map", None) or {}
    declared = declared_class(config)
    if declared in image_text and declared not in causal[:1]:
        return AutoModelForImageTextToText if declared is image_text[0] else declared
    if causal or "AutoModelForCausalLM" in own_code:
        return AutoModelForCausalLM
    return AutoModelForImageTextToText if image_text or "AutoModelForImageTextToText" in own_code else None


def class_without_head(config: Any) -> Any:
    """Return the class that reads a checkpoint without its vocabulary head.

    This is AutoModel where its class is the base model of the declared class, with the same names of weights.
    Otherwise it is the declared class: AutoModel would build another network (an encoder next to the decoder) or look
    for the weights under other names, and initialise them at random.
    """
    from transformers import AutoModel
    from transformers.models.auto import modeling_auto

    declared, automatic = declared_class(config), _mapped(modeling_auto.MODEL_MAPPING, config)
    if declared is None or declared in automatic:
        return AutoModel
    whole = build_empty(declared, config)
    base = whole.base_model
    same_names = getattr(base, "base_model_prefix", None) == whole.base_model_prefix
    return AutoModel if type(base) in automatic and same_names else declared


def _mapped(mapping: Any, config: Any) -> tuple[Any, ...]:
    """Return the classes of a configuration in one of transformers' mappings."""
    if type(config) not in mapping:
        return ()
    classes = mapping[type(config)]
    return tuple(classes) if isinstance(classes, list | tuple) else (classes,)


class _WithoutRandomValues(TorchFunctionMode):
    """Skips random initialisation of tensors on the meta device, which would take most of a build's time."""

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Call a function of torch, unless it fills a tensor on the meta device with random values."""
        options = kwargs or {}
        if getattr(function, "__name__", "") in RANDOM_FILLS:
            tensor: torch.Tensor = options["tensor"] if "tensor" in options else args[0]
            if tensor.is_meta:
                return tensor
        return function(*args, **options)


def build_empty(model_class: Any, config: Any, *, trust_remote_code: bool = False) -> "PreTrainedModel":
    """Build a model whose parameters are on the meta device; its buffers have their values where memory allows it."""
    try:
        network = _build_empty(model_class, config, trust_remote_code, include_buffers=False)
    except (MemoryError, RuntimeError) as error:
        if "allocate" not in str(error):
            raise
        # A parameter of tens of gigabytes does not fit into memory even for the moment before it is moved.
        network = _build_empty(model_class, config, trust_remote_code, include_buffers=True)
    network.tie_weights()  # moving parameters to the meta device has untied shared ones
    return network


def _build_empty(model_class: Any, config: Any, trust_remote_code: bool, *, include_buffers: bool) -> "PreTrainedModel":
    from accelerate import init_empty_weights

    with init_empty_weights(include_buffers=include_buffers), _WithoutRandomValues():
        if hasattr(model_class, "from_config"):
            network: PreTrainedModel = model_class.from_config(config, trust_remote_code=trust_remote_code)
        else:
            network = model_class._from_config(config)
    return network


def empty_model(
    config: Any, name: str, *, head: bool, trust_remote_code: bool = False
) -> tuple[Any, "PreTrainedModel"]:
    """Return the class that a model is loaded with, and an instance of it without weights.

    Args:
        config: transformers configuration of the model.
        name: name of the model, as configured.
        head: whether the model is loaded with its vocabulary head.
        trust_remote_code: whether to run code from the model's repository.

    Raises:
        InputError: the model cannot be built, is no causal language model although a head is needed, or is an
            encoder-decoder.
    """
    if config.is_encoder_decoder:
        raise InputError(
            f"model.source {name!r} ({config.model_type}) is an encoder-decoder model, whose decoder cannot run on "
            "text alone; choose a decoder or an encoder"
        )
    try:
        model_class = class_with_head(config) if head else class_without_head(config)
        if model_class is None:
            raise InputError(
                f"model.source {name!r} ({config.model_type}) is not a causal language model; choose one that is"
            )
        return model_class, build_empty(model_class, config, trust_remote_code=trust_remote_code)
    except InputError:
        raise
    except Exception as error:  # configurations raise any exception
        raise InputError(f"model.source {name!r} cannot be read: {first_line(error)}") from error


def check_runs_on_text(network: "PreTrainedModel", name: str) -> None:
    """Check that a model needs only text, by a pass over two tokens on the meta device without weights.

    Errors of the meta device itself say nothing about the model and are ignored.

    Raises:
        InputError: the model needs other inputs.
    """
    ids = torch.zeros(1, 2, dtype=torch.long, device="meta")
    accepted = inspect.signature(network.forward).parameters
    takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in accepted.values())
    options: dict[str, Any] = {"use_cache": False} if takes_any or "use_cache" in accepted else {}
    try:
        with torch.no_grad():
            network.to("meta").eval()(input_ids=ids, **options)
    except (TypeError, ValueError) as error:
        raise InputError(
            f"model.source {name!r} ({type(network).__name__}) cannot run on text alone: {first_line(error)}"
        ) from error
    except Exception:  # operations that need values have no result on the meta device
        return


def layers_field(config: Any) -> str:
    """Return the field of a text model's configuration that holds its number of layers."""
    for decoder, encoder in DECODER_LAYERS.items():
        if hasattr(config, decoder) and hasattr(config, encoder):
            return decoder
    # A layer with several token mixers counts as several hidden layers; another field holds the number of such layers.
    is_derived = isinstance(getattr(type(config), "num_hidden_layers", None), property)
    return "num_layers" if is_derived and hasattr(config, "num_layers") else "num_hidden_layers"


def num_layers_of(config: Any) -> int:
    """Return the number of layers of the text model that a configuration describes.

    Raises:
        InputError: the configuration does not say.
    """
    try:
        text = config.get_text_config()
        return int(getattr(text, layers_field(text)))
    except (AttributeError, TypeError, ValueError) as error:
        raise InputError(
            f"model type {config.model_type}: its configuration has no number of layers ({first_line(error)}); "
            "only models with one stack of layers can be read"
        ) from error
