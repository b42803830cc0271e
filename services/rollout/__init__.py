"""The rollout service: plays tasks × group size with CacheAgentLoop, keeps the episodes, tells the engines which weights to hold."""
