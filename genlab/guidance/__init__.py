"""Wrappers of the field a sampler sees."""
