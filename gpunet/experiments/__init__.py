"""Runs: their configuration, presets, and the pipeline from data to report."""
