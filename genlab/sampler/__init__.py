"""Integrators of a path: they see a function (x, t) -> x0, never a network."""
