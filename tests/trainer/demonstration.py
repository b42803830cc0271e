"""Small conversations that the trainer's tests learn from."""

from cacherl.tool_spec import Function, ToolSpec
from cacherl.trajectory import CalledFunction, Message, MessageToolCall, Outcome, Role, Trajectory

CITIES = ["Lima", "Oslo", "Bern", "Kyiv", "Rome", "Quito", "Turin", "Paris"]


def tool(name: str = "stays.find") -> ToolSpec:
    parameters = {"type": "object", "properties": {"city": {"type": "string"}, "nights": {"type": "integer"}}, "required": ["city"]}
    return ToolSpec(function=Function(name=name, description="Find a stay.", parameters=parameters))


def demonstration(number: int, *, accepted: bool | None = True) -> Trajectory:
    """A question, one call, its result, an answer that copies from it."""
    city, room = CITIES[number % len(CITIES)], f"R{number % 50}"
    call = MessageToolCall(id="c0", function=CalledFunction(name="stays.find", arguments={"city": city, "nights": number % 9}))
    return Trajectory(
        id=f"demo/{number}",
        messages=[
            Message(role=Role.USER, content=f"A room in {city} for {number % 9} nights"),
            Message(role=Role.ASSISTANT, reasoning_content=f"The city is {city}.", tool_calls=[call]),
            Message(role=Role.TOOL, content=f'{{"room": "{room}"}}', tool_call_id="c0", name="stays.find"),
            Message(role=Role.ASSISTANT, content=f"Room {room} is yours."),
        ],
        tools=[tool()],
        scenario="town",
        task_id=f"task/{number}",
        outcome=Outcome(label=accepted, source="test"),
    )
