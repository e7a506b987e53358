"""The search for what flags hallucinating layers: definition, tap, sparsity threshold and propensity."""
