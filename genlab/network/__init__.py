"""Networks that models are built from; a network knows shapes, never a loss."""
