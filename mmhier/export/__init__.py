"""Detectors, segmentors, classifiers and backbones as graphs of fixed code."""
from .checking import check_export
from .exporting import export_model
from .graphs import build_graphs

__all__ = ['build_graphs', 'check_export', 'export_model']
