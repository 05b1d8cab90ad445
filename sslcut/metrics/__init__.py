"""Probes and measures of features, and the statistics that compare layers."""
