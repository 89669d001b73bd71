"""Roofline bounds of the operators on a CPU: arithmetic, bytes, and the rates of the machine."""
