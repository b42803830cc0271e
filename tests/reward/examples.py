"""Episodes and tasks to score, made in one line each."""

from typing import Any

from cacherl.engine import FinishReason, PolicyVersion
from cacherl.episode import Episode, EpisodeCall, EpisodeStatus, EpisodeTurn, StopReason, task_hash
from cacherl.score import Score, ScoreStatus
from cacherl.tier import Agreement, CallOutcome, ToolResult
from cacherl.tool_call import ToolCall
from cacherl.tool_spec import Function, ToolSpec
from cacherl.trajectory import CalledFunction, Fact, Message, MessageToolCall, Reference, Role, Task

POLICY = PolicyVersion(name="tiny", version=1)
AGREES = Agreement(scenario=True, state=True, schema_=True)


def tool(name: str) -> ToolSpec:
    parameters: dict[str, Any] = {
        "type": "object",
        "properties": {"city": {"type": "string"}, "unit": {"type": "string", "default": "C"}},
        "required": ["city"],
        "additionalProperties": False,
    }
    return ToolSpec(function=Function(name=name, description=f"Tells the {name} of a city.", parameters=parameters))


TOOLS = [tool("weather"), tool("population"), tool("rename")]


def wanted(name: str, city: str) -> ToolCall:
    return ToolCall(name=name, arguments={"city": city})


def task(
    *calls: ToolCall, answer: str | None = "It is 21 degrees in Oslo.", facts: list[str] | None = None, reference: bool = True
) -> Task:
    return Task(
        id="t1",
        messages=[Message(role=Role.USER, content="How warm is it in Oslo?")],
        tools=TOOLS,
        scenario="norway",
        reference=Reference(answer=answer, calls=list(calls), facts=None if facts is None else [Fact(value=fact) for fact in facts])
        if reference
        else None,
    )


def call(
    name: str = "weather",
    city: str = "Oslo",
    outcome: str = "exact",
    fidelity: float | None = None,
    *,
    mutating: bool = False,
    is_error: bool | None = None,
    agreement: Agreement | None = AGREES,
    arguments: dict[str, Any] | None = None,
) -> EpisodeCall:
    found = CallOutcome(outcome)
    made = None if found is CallOutcome.MALFORMED else ToolCall(name=name, arguments={"city": city} if arguments is None else arguments)
    failed = found is not CallOutcome.EXACT if is_error is None else is_error
    return EpisodeCall(
        span=(0, 1),
        call=made,
        outcome=found,
        fidelity=fidelity,
        agreement=agreement,
        mutating=mutating,
        result=ToolResult(content="21", is_error=failed),
    )


def episode(
    *calls: EpisodeCall,
    of: Task | None = None,
    answer: str | None = "It is 21 degrees.",
    thinking: str | None = "The user asks for Oslo.",
    stop: StopReason = StopReason.FINAL_ANSWER,
    status: EpisodeStatus = EpisodeStatus.OK,
    name: str = "eps_1",
    filler: int = 4,
    error: dict[str, Any] | None = None,
) -> Episode:
    """One turn per call, then the answer; every turn samples `filler` + 1 ids and is followed by 2 injected ones."""
    of = of or task()
    ids, turns, messages = [1] * 8, [], list(of.messages)
    for made in [*calls, None]:
        start = len(ids)
        ids += [7] * (filler + 1)
        placed = [made.model_copy(update={"span": (start, start + 1)})] if made is not None else []
        turns.append(
            EpisodeTurn(
                start=start,
                end=len(ids),
                logprobs=[-0.25] * (filler + 1),
                policy_version=POLICY,
                finish_reason=FinishReason.STOP,
                calls=placed,
            )
        )
        if made is None:
            messages.append(Message(role=Role.ASSISTANT, content=answer, reasoning_content=thinking))
            continue
        ids += [2, 2]
        messages += _messages(made, thinking)
    return Episode(
        id=name,
        rollout="rol_1",
        task=task_hash(of),
        task_id=of.id,
        group=0,
        index=0,
        status=status,
        stop_reason=stop,
        error=error,
        preset="robust",
        seed=1,
        template="t",
        tokenizer="k",
        ids=ids,
        prompt_length=8,
        turns=turns,
        messages=messages,
    ).sealed()


def _messages(made: EpisodeCall, thinking: str | None) -> list[Message]:
    tool_calls = []
    if made.call is not None:
        tool_calls = [MessageToolCall(function=CalledFunction(name=made.call.name, arguments=made.call.arguments))]
    return [
        Message(role=Role.ASSISTANT, content="", reasoning_content=thinking, tool_calls=tool_calls),
        Message(role=Role.TOOL, content="21", name=made.call.name if made.call else None, is_error=made.result.is_error),
    ]


def plain_score(r_answer: float | None, r_process: float, trust: float = 1.0, blame: float = 1.0, weight: float = 0.6, n: int = 0) -> Score:
    """A score as `robust` gives it with the one process term `answer_present`."""
    alpha = weight * trust if r_answer is not None else 0.0
    total = alpha * (r_answer or 0.0) + (1 - weight if r_answer is not None else 1.0) * r_process
    return Score(
        episode_id=f"eps_{n}",
        episode_hash="0" * 64,
        status=ScoreStatus.SCORED,
        total=total,
        r_answer=r_answer,
        r_process=r_process,
        alpha=alpha,
        trust=trust,
        blame=blame,
        terms={"answer_present": r_process},
        weights={"answer_present": 1.0},
    )
