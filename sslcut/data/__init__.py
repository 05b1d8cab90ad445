"""Data sets, their splits, and the views of a batch."""
