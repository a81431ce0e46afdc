"""Transformers side by side, one after the other or between stages, and parameter groups to train them with."""
