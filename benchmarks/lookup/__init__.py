"""How fast the cache answers: `python -m benchmarks.lookup`."""
