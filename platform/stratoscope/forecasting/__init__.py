"""Forecasting: TimeSieve and other forecasters, perturbations, faithful training, and the comparison of results."""

from typing import TYPE_CHECKING

from stratoscope.lazy import exports

if TYPE_CHECKING:
    from stratoscope.forecasting.ascent import AscentSettings, ascend, project, radius_scale
    from stratoscope.forecasting.comparison import (
        DeviationRatio,
        Difference,
        Spread,
        deviation_ratios,
        differences,
        spreads,
    )
    from stratoscope.forecasting.evaluation import (
        PARAMETER_DRAWS,
        FittedCell,
        example_forecast,
        fit_cell,
        measure_errors,
        measure_worst_cases,
        search_ascent,
    )
    from stratoscope.forecasting.faithful import (
        FaithfulLoss,
        FaithfulWeights,
        WorstCase,
        attack_objective,
        cached_weights,
        distance,
        error_of,
        faithful_loss,
        frozen,
        preference,
        worst_case,
    )
    from stratoscope.forecasting.fitting import (
        Data,
        DivergedError,
        Epoch,
        FitSettings,
        Windows,
        errors,
        fit,
        fit_faithfully,
        predict,
    )
    from stratoscope.forecasting.forecasters import FORECASTERS, Forecaster, Shape
    from stratoscope.forecasting.grid import (
        CellSettings,
        GridCell,
        SearchSettings,
        grid_cells,
    )
    from stratoscope.forecasting.measurements import NONE, ForecastPoint, Measurement, WorstCaseMeasurement
    from stratoscope.forecasting.options import (
        DESIGNS,
        TRAININGS,
        Attack,
        AttackGoal,
        Error,
        Norm,
        Preset,
        Training,
        TrainingDesign,
    )
    from stratoscope.forecasting.outcomes import (
        Outcome,
        PerturbationOutcome,
        is_questioned,
        perturbation_outcomes,
        ratio_verdicts,
        reference_ratios,
        seed_outcome,
        verdicts,
    )
    from stratoscope.forecasting.perturbations import (
        ADVERSARIAL,
        PARAMETER,
        PERTURBATIONS,
        Perturbation,
        has_bottleneck,
        perturbed_parameters,
    )
    from stratoscope.forecasting.timesieve import Forecast, TimeSieve, TimeSieveSettings
    from stratoscope.forecasting.wavelet import make_wavelet

__all__ = [
    "ADVERSARIAL",
    "DESIGNS",
    "FORECASTERS",
    "NONE",
    "PARAMETER",
    "PARAMETER_DRAWS",
    "PERTURBATIONS",
    "TRAININGS",
    "AscentSettings",
    "Attack",
    "AttackGoal",
    "CellSettings",
    "Data",
    "DeviationRatio",
    "Difference",
    "DivergedError",
    "Epoch",
    "Error",
    "FaithfulLoss",
    "FaithfulWeights",
    "FitSettings",
    "FittedCell",
    "Forecast",
    "ForecastPoint",
    "Forecaster",
    "GridCell",
    "Measurement",
    "Norm",
    "Outcome",
    "Perturbation",
    "PerturbationOutcome",
    "Preset",
    "SearchSettings",
    "Shape",
    "Spread",
    "TimeSieve",
    "TimeSieveSettings",
    "Training",
    "TrainingDesign",
    "Windows",
    "WorstCase",
    "WorstCaseMeasurement",
    "ascend",
    "attack_objective",
    "cached_weights",
    "deviation_ratios",
    "differences",
    "distance",
    "error_of",
    "errors",
    "example_forecast",
    "faithful_loss",
    "fit",
    "fit_cell",
    "fit_faithfully",
    "frozen",
    "grid_cells",
    "has_bottleneck",
    "is_questioned",
    "make_wavelet",
    "measure_errors",
    "measure_worst_cases",
    "perturbation_outcomes",
    "perturbed_parameters",
    "predict",
    "preference",
    "project",
    "radius_scale",
    "ratio_verdicts",
    "reference_ratios",
    "search_ascent",
    "seed_outcome",
    "spreads",
    "verdicts",
    "worst_case",
]

__getattr__ = exports(__name__)
