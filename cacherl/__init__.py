"""CacheRL, the library: nouns, pure functions, wire schemas and the SDK. It knows no web server, no SQL and no torch.

Read in this order: `tool_call`, `tier`, `state`, `agent_loop`, `episode`, `reward`, `advantages`; the services in `services/` are
shells around them.
"""

__version__ = "0.1.0"
