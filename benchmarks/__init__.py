"""Measurements: each module below is a program that prints one JSON object. Never a test: a timing proves nothing on a busy machine."""
