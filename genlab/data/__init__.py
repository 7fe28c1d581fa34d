"""Data sets: stored images as uint8 and points of the plane as float32, held in memory."""
