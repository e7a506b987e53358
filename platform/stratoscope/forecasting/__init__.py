"""Forecasting: TimeSieve and other forecasters, what perturbs them, and training that makes them faithful."""

from stratoscope.forecasting.ascent import AscentSettings, Norm, ascend, project
from stratoscope.forecasting.faithful import (
    FaithfulLoss,
    FaithfulWeights,
    Uphill,
    WorstCase,
    distance,
    faithful_loss,
    preference,
    standing_still,
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
from stratoscope.forecasting.perturbations import (
    ADVERSARIAL,
    PARAMETER,
    PERTURBATIONS,
    Perturbation,
    has_bottleneck,
    shaken,
)
from stratoscope.forecasting.timesieve import Forecast, Preset, TimeSieve, TimeSieveSettings
from stratoscope.forecasting.wavelet import make_wavelet

__all__ = [
    "ADVERSARIAL",
    "FORECASTERS",
    "PARAMETER",
    "PERTURBATIONS",
    "AscentSettings",
    "Data",
    "DivergedError",
    "Epoch",
    "FaithfulLoss",
    "FaithfulWeights",
    "FitSettings",
    "Forecast",
    "Forecaster",
    "Norm",
    "Perturbation",
    "Preset",
    "Shape",
    "TimeSieve",
    "TimeSieveSettings",
    "Uphill",
    "Windows",
    "WorstCase",
    "ascend",
    "distance",
    "errors",
    "faithful_loss",
    "fit",
    "fit_faithfully",
    "has_bottleneck",
    "make_wavelet",
    "predict",
    "preference",
    "project",
    "shaken",
    "standing_still",
    "worst_case",
]
