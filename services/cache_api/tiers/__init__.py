"""The tiers: pure functions that say which of the candidates may answer, and how near they are. They read nothing and choose no draw."""
