"""Shared layers. Nothing is re-exported: import from the file that holds the layer."""
