"""Algorithms: one file holds one objective, the rest of the house does not know it."""
