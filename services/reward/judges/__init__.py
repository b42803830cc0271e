"""The judges: `facts` is deterministic and always there, `llm` asks an endpoint of the configuration."""
