"""Interleaved runs of candidates in processes of their own, and what is written of them."""
