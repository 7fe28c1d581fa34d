"""Networks whose outputs stand for images when sets of them are compared."""
