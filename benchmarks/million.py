"""Show a large run: synthetic short prompts through a tiny random model, with what the driver and each shard take.

usage: python benchmarks/million.py [--prompts N]
"""

import argparse
import resource
import tempfile
import threading
import time
from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, PreTrainedTokenizerFast

import stratoscope
from stratoscope.pipelines.reporting.formatting import memory_text

WORDS = 1000


def tiny_model(folder: Path) -> None:
    """Save a random Llama of two layers with a word-level tokenizer."""
    words = ["<pad>", "<bos>", "<eos>", "<unk>", *(f"w{i}" for i in range(WORDS))]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64
    )
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)


def main() -> None:
    """Run it and print what it took."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--prompts", type=int, default=1_000_000)
    number = parser.parse_args().prompts
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        tiny_model(folder / "model")
        with (folder / "prompts.txt").open("w") as file:
            for i in range(number):
                file.write(f"w{i % WORDS} w{i // WORDS % WORDS} w{i // WORDS**2} w{i * 7 % WORDS}\n")
        most_files = 0
        ended = threading.Event()

        def watch() -> None:
            nonlocal most_files
            while not ended.wait(2):
                most_files = max(most_files, sum(1 for path in (folder / "runs").rglob("*") if path.is_file()))

        threading.Thread(target=watch, daemon=True).start()
        start = time.perf_counter()
        run = stratoscope.score(
            output=str(folder / "runs"),
            model={"source": str(folder / "model")},
            prompts={"source": str(folder / "prompts.txt"), "limit": None},
            batching={"max_tokens": 8192},
        )
        seconds = time.perf_counter() - start
        ended.set()
        m = run.manifest
        size = sum(path.stat().st_size for path in Path(run.path).rglob("*"))
        driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"{m.counts['scored']:,} prompts scored, {m.counts['tokens']:,} tokens, in {seconds:,.0f} s {m.timings}")
        print(f"{m.facts['num_shards']} shards of {m.facts['shard_size']}, statistics by shard: {m.facts['by_shard']}")
        print(f"{m.timings['measure'] / m.facts['num_shards'] * 1000:,.0f} ms per shard, model included")
        actor = memory_text(m.peak_memory_bytes, m.peak_gpu_memory_bytes)
        print(f"peak memory: driver {driver:,.0f} MB, largest actor {actor}")
        print(f"at most {most_files:,} files at a time; the run folder ends with {size / 1e6:,.1f} MB")


if __name__ == "__main__":
    main()
