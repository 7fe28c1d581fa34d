"""Optimizers: one group of keys for one or many players."""
