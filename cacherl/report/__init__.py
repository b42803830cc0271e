"""The report of a run: `model` is its JSON, `build` makes it from facts, `notes` says what may be claimed, `plots` and `html` show it."""
