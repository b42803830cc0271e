"""The trainer: datasets, jobs and policies. It reads logs, makes policies of them, and says what that cost."""
