"""Stratoscope analyzes the layers of trained models, in batch and at scale, on Ray.

    import stratoscope

    run = stratoscope.score(prompts={"source": "sciq", "limit": 64})
    run.layer_scores.to_pandas()

Importing the package imports none of its parts: torch and Ray are imported when a job is first used.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stratoscope import config
    from stratoscope.api import (
        audit,
        detect_hallucination,
        evaluate_faithfulness,
        faithfulness,
        hallucination,
        mitigate,
        score,
        search,
    )
    from stratoscope.config import (
        AuditConfig,
        FaithfulnessConfig,
        HallucinationConfig,
        MitigationConfig,
        ScoreConfig,
        SearchConfig,
    )
    from stratoscope.errors import InputError, RunError
    from stratoscope.results import Run
    from stratoscope.runs import (
        AuditRun,
        FaithfulnessRun,
        HallucinationRun,
        MitigationRun,
        ScoreRun,
        SearchRun,
        list_runs,
        open_run,
    )

_MODULES = {
    "api": (
        "audit",
        "detect_hallucination",
        "evaluate_faithfulness",
        "faithfulness",
        "hallucination",
        "mitigate",
        "score",
        "search",
    ),
    "config": (
        "AuditConfig",
        "FaithfulnessConfig",
        "HallucinationConfig",
        "MitigationConfig",
        "ScoreConfig",
        "SearchConfig",
    ),
    "errors": ("InputError", "RunError"),
    "results": ("Run",),
    "runs": (
        "AuditRun",
        "FaithfulnessRun",
        "HallucinationRun",
        "MitigationRun",
        "ScoreRun",
        "SearchRun",
        "list_runs",
        "open_run",
    ),
}
_MODULE_OF = {name: module for module, names in _MODULES.items() for name in names}
__all__ = [
    "AuditConfig",
    "AuditRun",
    "FaithfulnessConfig",
    "FaithfulnessRun",
    "HallucinationConfig",
    "HallucinationRun",
    "InputError",
    "MitigationConfig",
    "MitigationRun",
    "Run",
    "RunError",
    "ScoreConfig",
    "ScoreRun",
    "SearchConfig",
    "SearchRun",
    "audit",
    "config",
    "detect_hallucination",
    "evaluate_faithfulness",
    "faithfulness",
    "hallucination",
    "list_runs",
    "mitigate",
    "open_run",
    "score",
    "search",
]


def __getattr__(name: str) -> Any:
    """Import what is public when it is first used."""
    if name in ("api", "config"):
        return importlib.import_module(f"stratoscope.{name}")
    if name in _MODULE_OF:
        return getattr(importlib.import_module(f"stratoscope.{_MODULE_OF[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Return the public names, so that an interactive session completes them."""
    return sorted({*globals(), *__all__})
