"""Numbers of layers in words."""

from collections.abc import Iterable

from stratoscope.pipelines.reporting.formatting import list_text

MAX_RUNS = 8
"""Maximum number of ranges of layers that are listed."""


def layers_text(layers: Iterable[int]) -> str:
    """Return layers as text, with consecutive layers as a range, such as 'layers 3-7 and 12'.

    Args:
        layers: numbers of layers, at least one.
    """
    runs: list[list[int]] = []
    for layer in sorted(layers):
        if runs and layer == runs[-1][-1] + 1:
            runs[-1].append(layer)
        else:
            runs.append([layer])
    # Two consecutive layers are listed, because a range of two would not be shorter.
    texts = [text for run in runs for text in ([f"{run[0]}-{run[-1]}"] if len(run) > 2 else map(str, run))]
    plural = "" if len(texts) == 1 and "-" not in texts[0] else "s"
    return f"layer{plural} {list_text(texts, MAX_RUNS)}"
