"""Metrics, and predictions read back from files."""
