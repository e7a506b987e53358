"""Tolerances between results of the same tokens in batches of different shapes."""

import torch

LOG_LIKELIHOOD_TOLERANCE = {torch.float32: 1e-3, torch.float16: 0.05, torch.bfloat16: 0.3}
"""Largest difference of log-likelihoods that rounding explains, by the number format of the weights."""
