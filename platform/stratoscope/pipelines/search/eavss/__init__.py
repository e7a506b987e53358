"""The search for the best settings to flag layers: definition, tap, sparsity threshold and propensity."""
