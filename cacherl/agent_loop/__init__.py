"""CacheAgentLoop: plays episodes of a policy whose tools are answered by a cache (method §4).

Pure asyncio behind two protocols, `cacherl.engine.Engine` and `cacherl.tool_cache.ToolCache`. Token ids go in and come out; what was
sampled is never tokenised again; what is injected never carries loss. Read `episode_run` for one episode, `calls` for how its calls are
answered, `batching` for how many episodes share requests, `loop` for the whole.
"""

from cacherl.agent_loop.batching import EngineBatcher, LookupBatcher
from cacherl.agent_loop.config import LoopConfig
from cacherl.agent_loop.loop import CacheAgentLoop

__all__ = ["CacheAgentLoop", "EngineBatcher", "LookupBatcher", "LoopConfig"]
