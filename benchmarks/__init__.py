"""Benchmarks against baselines and roofline bounds; ``run.py`` is the command."""
