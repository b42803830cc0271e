"""`cacherl …`: a thin shell over the SDK. One file per group of commands; `main` is the entry point."""

from cacherl.cli.app import main

__all__ = ["main"]
