"""Benchmarks of one device's backends against each other, in one process: ``run.py --device``."""
