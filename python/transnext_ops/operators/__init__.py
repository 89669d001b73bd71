"""The public operators: docstring, checks and call of each, one module per family."""
