"""What a view knows of its tools: what was given, what words say, and what the recordings show (method §3.2, §3.3).

`tools`: given over inferred, from a tool's own words. `observe`: recorded calls as the learners see them. `evidence` and `scopes`: per tool
the part of the past that its result depends on. `learn`: all of it, over a cache in Postgres.
"""

from services.cache_api.learning.tools import Given, given_with, remembered, specs_for, view_tools

__all__ = ["Given", "given_with", "remembered", "specs_for", "view_tools"]
