"""What `bench_peers.py` compares: a file a target, and how they are timed."""
