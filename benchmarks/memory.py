"""Measure what memory depends on: the number of prompts, and the number of actors that share a node.

usage: python benchmarks/memory.py [--small N] [--large N]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psutil

import stratoscope

MODEL = "smollm2"


def run(num_prompts: int, folder: Path) -> None:
    """Score so many short prompts in this process, and print the peaks of its actors and of itself."""
    path = folder / f"{num_prompts}.txt"
    path.write_text("".join(f"item {i}\n" for i in range(num_prompts)))
    done = stratoscope.score(
        output=str(folder), prompts={"source": str(path), "limit": None}, scores={"bootstrap": 200}
    )
    driver = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    facts = done.manifest.facts
    print(
        json.dumps(
            {
                "actor": done.manifest.peak_memory_bytes,
                "driver": driver,
                "by_shard": facts["by_shard"],
                "shards": facts["num_shards"],
                "seconds": done.manifest.timings["measure"],
            }
        )
    )


def by_number_of_prompts(small: int, large: int) -> None:
    """Compare the peaks of two runs, each in a process of its own."""
    found = {}
    for number in (small, large):
        with tempfile.TemporaryDirectory() as folder:
            command = [sys.executable, __file__, "--run", str(number), folder]
            answer = subprocess.run(command, capture_output=True, text=True, check=True).stdout
        found[number] = json.loads(answer.splitlines()[-1])
        print(f"{number:,} prompts: {found[number]}", flush=True)
    for who in ("actor", "driver"):
        ratio = found[large][who] / found[small][who]
        print(f"peak memory of the {who}, {large:,} prompts / {small:,}: {ratio:.3f} (target within 10 %)")


def of_a_second_actor() -> None:
    """Load the model in two processes, and print how long that took after imports and what each holds alone."""
    code = (
        "import sys, time; from stratoscope.models import load_model; import transformers, torch, safetensors\n"
        "from transformers import AutoModel, AutoTokenizer, LlamaModel\n"
        "start = time.perf_counter(); model = load_model(sys.argv[1]); print(time.perf_counter() - start, flush=True)\n"
        "ids = model.tokenizer('a b c', return_tensors='pt')\n"
        "import torch; torch.inference_mode().__enter__(); model.backbone(**ids); print('ran', flush=True)\n"
        "sys.stdin.read()\n"
    )
    processes = []
    for name in ("first", "second"):
        command = [sys.executable, "-c", code, MODEL]
        process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        seconds = float(process.stdout.readline())
        process.stdout.readline()
        processes.append(process)
        print(f"the {name} process has its weights {seconds:.2f} s after imports", flush=True)
    time.sleep(1)
    for name, process in zip(("first", "second"), processes, strict=True):
        held = psutil.Process(process.pid).memory_full_info()
        print(f"{name}: resident {held.rss / 1e6:,.0f} MB, of which its own {held.uss / 1e6:,.0f} MB")
    for process in processes:
        process.communicate("")


def main() -> None:
    """Run all measurements."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--small", type=int, default=1000)
    parser.add_argument("--large", type=int, default=20_000)
    parser.add_argument("--run", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.run:
        run(int(options.run[0]), Path(options.run[1]))
        return
    of_a_second_actor()
    by_number_of_prompts(options.small, options.large)


if __name__ == "__main__":
    main()
