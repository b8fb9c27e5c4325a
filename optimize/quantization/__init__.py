"""Fewer bits: calibration, observers, INT8 and half-precision graphs, tuning under rounding."""
