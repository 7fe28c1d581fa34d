"""Gaussian paths x_t = a(t) x0 + b(t) eps from data (t = 0) to noise (t = 1)."""
