"""From a checked call to its kernel: autocast, backend, custom operator or plain call."""
