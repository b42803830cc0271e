"""Random dialogues in which every text may hold control strings, placeholders and odd characters."""

from typing import Any

from hypothesis import strategies as st

from cacherl.testing import MARKS, SPECIAL
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Message

HOSTILE = [
    *SPECIAL,
    *MARKS,
    "\ue000",
    "\ue0000\ue001",
    "\ue00099\ue001",
    "<|im_",
    "end|>",
    "\n",
    "\n\n",
    " ",
    '"',
    "\\",
    "é",
    "日本",
    "🙂",
    "\u2028",
    "<",
    ">",
]
texts = st.lists(st.sampled_from(HOSTILE) | st.text(max_size=8), max_size=6).map("".join)
plain_texts = st.text(alphabet=st.characters(codec="utf-8", exclude_characters="<\ue000"), max_size=24)
json_values: Any = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | texts,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def calls(strings: Any = texts) -> Any:
    arguments = st.dictionaries(strings, json_values if strings is texts else strings, max_size=3)
    return st.builds(
        lambda name, given: {"function": {"name": name, "arguments": given}},
        st.text(min_size=1, max_size=8) | st.just("f<|im_end|>"),
        arguments,
    )


def assistants(strings: Any = texts) -> Any:
    return st.builds(
        lambda content, reasoning, made: Message.model_validate(
            {"role": "assistant", "content": content, "reasoning_content": reasoning, "tool_calls": made}
        ),
        st.none() | strings,
        st.none() | strings,
        st.lists(calls(strings), max_size=3),
    )


def others(*roles: str, strings: Any = texts) -> Any:
    return st.builds(lambda role, content: Message.model_validate({"role": role, "content": content}), st.sampled_from(roles), strings)


tools = st.lists(
    st.builds(
        lambda name, description, properties: ToolSpec.model_validate(
            {"function": {"name": name, "description": description, "parameters": {"type": "object", "properties": properties}}}
        ),
        st.text(min_size=1, max_size=8),
        texts,
        st.dictionaries(texts, st.fixed_dictionaries({"type": st.just("string"), "description": texts}), max_size=2),
    ),
    max_size=3,
)


@st.composite
def dialogues(draw: st.DrawFn, strings: Any = texts) -> list[Message]:
    messages = draw(st.lists(others("system", strings=strings), max_size=1)) + draw(
        st.lists(others("user", strings=strings), min_size=1, max_size=2)
    )
    for _ in range(draw(st.integers(1, 4))):
        messages.append(draw(assistants(strings)))
        messages += draw(st.lists(others("tool", "user", strings=strings), max_size=3))
    return messages
