"""Live modes: calls that go to a live tool server, and what keeps them true, single, within a budget and stored."""
