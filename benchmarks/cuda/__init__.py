"""Benchmarks on one device, in one process: every backend, baselines, roofline bounds of cards."""
