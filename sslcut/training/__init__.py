"""Optimisers, precision and the training loop."""
