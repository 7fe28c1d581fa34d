"""Bridges between stored data and model space."""
