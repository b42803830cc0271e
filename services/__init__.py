"""The four services, what they share, the embedded engine, and the local system."""
