"""Our tools, results and errors as MCP's.

A miss is a tool result with `isError` and the cache's own words, for the agent to read. What is no answer of a tool (a service that is
away, a lookup that is refused) is a protocol error and never a tool's result: an infrastructure failure is no observation.
"""

from typing import Any

from mcp.shared.exceptions import MCPError
from mcp_types import INTERNAL_ERROR, INVALID_PARAMS, CallToolResult, ContentBlock, TextContent, Tool, ToolAnnotations
from pydantic import TypeAdapter, ValidationError

from cacherl.errors import CacheRLError, InputError
from cacherl.mcp_proxy.episode import Answered
from cacherl.mcp_proxy.names import ToolNames
from cacherl.rendering import result_text
from cacherl.tool_spec import Annotations, ToolSpec
from cacherl.wire import Json

ANSWER = "cacherl/answer"
"""Key in a result's `_meta`: how the call was answered."""
TOOL = "cacherl/tool"
"""Key in a tool's `_meta`: its recorded name, where the shown one differs."""


def tool(spec: ToolSpec, names: ToolNames) -> Tool:
    """A recorded tool as it is listed."""
    shown = names.shown(spec.name)
    return Tool(
        name=shown,
        title=spec.name if shown != spec.name else None,
        description=spec.function.description or None,
        input_schema={"type": "object", **spec.function.parameters},
        annotations=hints(spec.annotations),
        _meta={TOOL: spec.name} if shown != spec.name else None,
    )


def hints(annotations: Annotations) -> ToolAnnotations | None:
    """What is known of a tool, as hints; None where nothing is, which clients read as the careful defaults."""
    if annotations.mutating is None:
        return None
    return ToolAnnotations(read_only_hint=not annotations.mutating, idempotent_hint=None if annotations.mutating else True)


def result(answered: Answered) -> CallToolResult:
    """An answer: its text, the value itself where it is an object, and in `_meta` how it came about."""
    found = answered.result
    content = found.result.content
    return CallToolResult(
        content=blocks(content) or [TextContent(text=result_text(content))],
        structured_content=content if isinstance(content, dict) else None,
        is_error=found.result.is_error,
        _meta={ANSWER: provenance(answered)},
    )


def blocks(content: Json) -> list[ContentBlock] | None:
    """The blocks of a result that was recorded from an MCP server and is more than text (images, links); None for any other."""
    if not content or not isinstance(content, list) or not all(isinstance(block, dict) and "type" in block for block in content):
        return None
    try:
        return _BLOCKS.validate_python(content)
    except ValidationError:
        return None


_BLOCKS = TypeAdapter(list[ContentBlock])


def provenance(answered: Answered) -> dict[str, Any]:
    """Everything that the cache says of an answer but the result itself."""
    found = answered.result
    said = found.model_dump(mode="json", by_alias=True, exclude={"result"} if found.explain is not None else {"result", "explain"})
    tier = found.outcome.tier
    return {**said, "tier": tier.value if tier is not None else None, "revision": answered.revision, "view": answered.view}


def protocol_error(error: CacheRLError) -> MCPError:
    """A refusal or failure; `data` is the problem document (RFC 9457)."""
    return MCPError(INVALID_PARAMS if isinstance(error, InputError) else INTERNAL_ERROR, error.detail, error.problem())
