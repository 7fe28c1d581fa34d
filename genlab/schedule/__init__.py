"""Learning-rate shapes and the length of a run."""
