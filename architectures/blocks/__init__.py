"""Networks with several transformers, in parallel, in series or between stages, and parameter groups for optimisers."""
