"""Fused kernels that no GPU has timed yet; `bench_fused.py` says which of them pay."""
