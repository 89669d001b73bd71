"""The implementations behind the operators, one module each, chosen by :mod:`.registry`."""
