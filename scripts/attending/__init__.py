"""Attention timed on a GPU and on a CPU."""
