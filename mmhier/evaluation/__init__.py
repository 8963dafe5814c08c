"""Metrics, and reading of predictions."""
