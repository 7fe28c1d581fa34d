"""Attention: one function, one mask specification, one backend for each kind of machine."""
