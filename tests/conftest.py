"""Models and tokenizers small enough to build in a test, and one local Ray for all tests of a process that need it."""

import os
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import hypothesis
import pytest
import torch
from transformers import (
    AutoModel,
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    DistilBertConfig,
    Gemma3TextConfig,
    GPT2Config,
    GPTNeoXConfig,
    LlamaConfig,
    MistralConfig,
    MixtralConfig,
    OPTConfig,
    PhiConfig,
    PreTrainedConfig,
    PreTrainedModel,
    Qwen2Config,
    Qwen3MoeConfig,
    RobertaConfig,
)

from stratoscope.models import LoadedModel, find_anatomy
from tests.jobs.small import many_prompts, small_run, undisturbed  # noqa: F401 - fixtures
from tests.pages import browser  # noqa: F401 - a fixture

if TYPE_CHECKING:
    from ray.cluster_utils import Cluster

# A process that shares the machine with others is slower with more threads, and a tiny model is so in any case.
torch.set_num_threads(1)
# Compiling a function of a model to C++ takes half a minute, and changes nothing that a test asks for.
os.environ.setdefault("TORCH_COMPILE_DISABLE", "1")

VOCABULARY = 128
OBJECT_STORE = 150 * 2**20
SMALL = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
GROUPED = {**SMALL, "num_key_value_heads": 2, "head_dim": 8}

CONFIGURATIONS: dict[str, PreTrainedConfig] = {
    "llama": LlamaConfig(**GROUPED),
    "mistral": MistralConfig(**GROUPED, sliding_window=8),
    "qwen2": Qwen2Config(**{k: v for k, v in GROUPED.items() if k != "head_dim"}),
    "gemma3": Gemma3TextConfig(
        **GROUPED,
        sliding_window=4,
        layer_types=["sliding_attention", "full_attention", "sliding_attention", "full_attention"],
    ),
    "gpt2": GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=4, n_head=4, n_positions=64, bos_token_id=1, eos_token_id=2
    ),
    "opt": OPTConfig(
        vocab_size=VOCABULARY,
        hidden_size=32,
        word_embed_proj_dim=32,
        num_hidden_layers=4,
        num_attention_heads=4,
        ffn_dim=48,
        max_position_embeddings=64,
    ),
    "gpt_neox": GPTNeoXConfig(**SMALL),
    "phi": PhiConfig(**SMALL),
    "mixtral": MixtralConfig(**GROUPED, num_local_experts=4, num_experts_per_tok=2, sliding_window=None),
    "qwen3_moe": Qwen3MoeConfig(
        **GROUPED, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=24, mlp_only_layers=[1]
    ),
    "bert": BertConfig(**SMALL),
    "roberta": RobertaConfig(**SMALL | {"max_position_embeddings": 66, "pad_token_id": 1}),
    "distilbert": DistilBertConfig(
        vocab_size=VOCABULARY, dim=32, n_layers=4, n_heads=4, hidden_dim=48, max_position_embeddings=64
    ),
}

ENCODERS = ("bert", "roberta", "distilbert")


# A loaded machine is slow at times; tests assert results, not durations.
hypothesis.settings.register_profile("any speed", deadline=None)
hypothesis.settings.load_profile("any speed")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what uses Ray, and begin with the files that take longest."""
    costs: dict[str, int] = {}
    for item in items:
        if {"raylets", "local_ray"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("ray")
        cost = 2 if item.get_closest_marker("ray") else 1 if item.get_closest_marker("long") else 0
        costs[_file(item)] = max(cost, costs.get(_file(item), 0))
    items.sort(key=lambda item: -costs[_file(item)])


def _file(item: pytest.Item) -> str:
    return item.nodeid.partition("::")[0]


def tiny_network(name: str, seed: int = 0) -> PreTrainedModel:
    """A random model of an architecture, its weights large enough that every part of it matters."""
    torch.manual_seed(seed)
    kind = AutoModel if name in ENCODERS else AutoModelForCausalLM
    network = kind.from_config(CONFIGURATIONS[name], dtype=torch.float32)
    with torch.no_grad():
        for parameter in network.parameters():
            if parameter.ndim > 1:
                parameter.normal_(0, 0.2)
    return network.eval()


def load_tiny(name: str, folder: Path) -> LoadedModel:
    """A random model of an architecture with four layers, and the tokenizer in a folder."""
    network = tiny_network(name)
    return LoadedModel(network, AutoTokenizer.from_pretrained(folder), find_anatomy(network, 4), network.device)


@pytest.fixture(scope="session")
def tiny_model_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a tiny random Llama and a word-level tokenizer, as save_pretrained writes it."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    folder = tmp_path_factory.mktemp("tiny") / "llama"
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(VOCABULARY - 4))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", unk_token="<unk>"
    ).save_pretrained(folder)
    tiny_network("llama").save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def prompts_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Forty distinct prompts of 1 to 20 words, one a line."""
    path = tmp_path_factory.mktemp("prompts") / "prompts.txt"
    lines = [" ".join(f"w{(i * 7 + j * 3) % 100}" for j in range(1 + i % 20)) + f" w{i}" for i in range(40)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture(scope="session")
def raylets() -> Iterator["Cluster"]:
    """A real Ray of two raylets on this machine, one CPU each; a test may add a third and take it away."""
    from ray.cluster_utils import Cluster

    # Workers import the tests' own modules, and a node that is gone is noticed within seconds.
    os.environ["PYTHONPATH"] = os.pathsep.join([str(Path(__file__).parents[1]), os.environ.get("PYTHONPATH", "")])
    quick = {"health_check_initial_delay_ms": 0, "health_check_period_ms": 1000, "health_check_failure_threshold": 3}
    cluster = Cluster()
    cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE, include_dashboard=False, _system_config=quick)
    cluster.add_node(num_cpus=1, object_store_memory=OBJECT_STORE)
    cluster.wait_for_nodes()
    yield cluster
    cluster.shutdown()


@pytest.fixture(scope="session")
def local_ray(raylets: "Cluster") -> Iterator[None]:
    """This process connected to that Ray; jobs that run inside it use the connection and leave it alone."""
    from stratoscope.execution import cluster

    os.environ["RAY_ADDRESS"] = raylets.address
    with cluster():
        del os.environ["RAY_ADDRESS"]
        yield
