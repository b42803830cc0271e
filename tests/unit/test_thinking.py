"""Turn kinds, the hindsight filter, provenance in words, and the pipeline that joins them."""

import asyncio
import json
import threading
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cacherl.errors import JudgeError
from cacherl.thinking import (
    AugmentCounts,
    FileTraces,
    Leaks,
    MemoryTraces,
    OpenAITeacher,
    ProvenanceTeacher,
    Question,
    Thought,
    TurnKind,
    augment,
    classify,
)
from cacherl.thinking.openai import TeacherSettings
from cacherl.tool_spec import Function, ToolSpec
from cacherl.trajectory import CalledFunction, Message, MessageToolCall, Role, Trajectory


def user(text: str) -> Message:
    return Message(role=Role.USER, content=text)


def says(text: str | None, *calls: tuple[str, dict], number: int = 0) -> Message:
    made = [MessageToolCall(id=f"c{number}{i}", function=CalledFunction(name=n, arguments=a)) for i, (n, a) in enumerate(calls)]
    return Message(role=Role.ASSISTANT, content=text, tool_calls=made)


def gives(value: object, name: str, call: str = "c00", is_error: bool = False) -> Message:
    text = value if isinstance(value, str) else json.dumps(value)
    return Message(role=Role.TOOL, content=text, name=name, tool_call_id=call, is_error=is_error)


def trajectory(*messages: Message, tools: Sequence[ToolSpec] = ()) -> Trajectory:
    return Trajectory(id="t1", messages=list(messages), tools=list(tools), scenario="s", task_id="k")


ORDERS = {"orders": [{"item": "lamp", "order_id": "A12"}, {"item": "desk", "order_id": "A37"}]}
SHOP = trajectory(
    user("Where is the desk of Elena Knight?"),
    says(None, ("orders.find_customer", {"name": "Elena Knight"}), number=1),
    gives({"customer_id": "C71"}, "orders.find_customer", "c10"),
    says("", ("orders.list_orders", {"customer_id": "C71"}), number=2),
    gives(ORDERS, "orders.list_orders", "c20"),
    says("I need the depot, so I get the status.", ("orders.status", {"order_id": "A37"}), number=3),
    gives({"status": "packed", "depot": "Oslo", "weight": 12.0}, "orders.status", "c30"),
    says("The desk A37 is packed in Oslo."),
)


KINDS = [
    (says(None, ("a.get", {})), "u", TurnKind.BARE_CALL),
    (says("  \n", ("a.get", {})), "u", TurnKind.BARE_CALL),
    (says("I need the id first, because orders are listed by customer.", ("a.get", {})), "u", TurnKind.ANALYTICAL),
    (says("Thought: the user wants your order.", ("a.get", {})), "u", TurnKind.ANALYTICAL),
    (says("<think>Which id?</think>", ("a.get", {})), "u", TurnKind.ANALYTICAL),
    (says("Looking up the order.", ("a.get", {})), "u", TurnKind.ANALYTICAL),
    (says("Sure, I'll check that for you.", ("a.get", {})), "u", TurnKind.USER_FACING),
    (says("Thank you! One moment, please.", ("a.get", {})), "u", TurnKind.USER_FACING),
    (says("Could I have the number?"), "ua", TurnKind.USER_FACING),
    (says("Thought: I must ask."), "ua", TurnKind.ANALYTICAL),
    (says("It is in Oslo."), "u", TurnKind.FINAL),
    (says("It is in Oslo."), "", TurnKind.FINAL),
    (says(None), "", TurnKind.FINAL),
]


@pytest.mark.parametrize(("turn", "after", "kind"), KINDS)
def test_the_kind_of_a_turn(turn, after, kind):
    rest = {"": [], "u": [user("Thanks.")], "ua": [user("A37"), says("It is there.")]}[after]
    assert classify([user("Hello"), turn, *rest], 1) is kind


def test_every_trajectory_has_at_most_one_final_turn():
    kinds = [classify(SHOP.messages, i) for i, m in enumerate(SHOP.messages) if m.role is Role.ASSISTANT]
    assert kinds == [TurnKind.BARE_CALL, TurnKind.BARE_CALL, TurnKind.ANALYTICAL, TurnKind.FINAL]


LEAKS = [
    ("The order A37 is the desk.", 3, "A37"),
    ("The order a37 is the desk.", 3, "A37"),
    ("The order A37 is the desk.", 5, None),
    ("It will be in Oslo.", 5, "Oslo"),
    ("It is in Oslo.", 7, None),
    ("The customer is C71.", 1, "C71"),
    ("The customer is C71.", 3, None),
    ("The desk of Elena Knight.", 1, None),
    ("The order A370 is the desk.", 1, None),
    ("It weighs 12 kilograms.", 5, "12"),
    ("It weighs 12 kilograms.", 7, None),
    ("It weighs 1.12 kilograms.", 5, None),
    ("The user wants a result, so I call the tool.", 1, None),
    ("", 1, None),
]


@pytest.mark.parametrize(("trace", "turn", "leaked"), LEAKS)
def test_a_trace_that_knows_the_future_is_found(trace, turn, leaked):
    assert Leaks(SHOP).first(trace, turn) == leaked


names = st.text("ABCDEFGH", min_size=2, max_size=3)
values = st.builds(lambda a, n: f"{a}{n}", names, st.integers(10, 99))


@given(st.lists(values, min_size=3, max_size=6, unique=True), st.data())
def test_exactly_the_values_of_later_results_are_refused(found, data):
    messages = [user(f"Start at {found[0]}.")]
    for i, value in enumerate(found[1:]):
        messages += [says(None, ("t.next", {"at": found[i]}), number=i), gives({"next": value}, "t.next", f"c{i}0")]
    leaks = Leaks(trajectory(*messages, says("Done.")))
    turn = data.draw(st.integers(0, len(found) - 2))
    for i, value in enumerate(found):
        told = leaks.first(f"So the place is {value}, I think.", 1 + 2 * turn)
        assert told == (value if i > turn else None)


@given(st.lists(st.tuples(values, values), min_size=1, max_size=5), st.booleans())
def test_provenance_never_knows_the_future(steps, named):
    messages = [user("Go on." if not named else f"Go to {steps[0][0]}.")]
    for i, (argument, value) in enumerate(steps):
        messages += [says(None, ("t.go", {"to": argument, "n": i}), number=i), gives({"at": [value, {"k": value}]}, "t.go", f"c{i}0")]
    one = trajectory(*messages, says(f"It is {steps[-1][1]}."))
    leaks = Leaks(one)
    for i, message in enumerate(one.messages):
        if message.role is Role.ASSISTANT:
            question = Question(classify(one.messages, i), one.messages[:i], message, one.tools)
            thought = asyncio.run(ProvenanceTeacher().think([question]))[0]
            assert leaks.first(thought.text, i) is None


def explained(one: Trajectory) -> list[str]:
    questions = [
        Question(classify(one.messages, i), one.messages[:i], m, one.tools) for i, m in enumerate(one.messages) if m.role is Role.ASSISTANT
    ]
    return [thought.text for thought in asyncio.run(ProvenanceTeacher().think(questions))]


def test_provenance_says_where_values_come_from():
    assert explained(SHOP) == [
        "The name Elena Knight is from the user.",
        "The customer_id C71 is from the result of orders.find_customer.",
        "The order_id A37 is from the result of orders.list_orders (item desk).",
        "The answer is in the result of orders.list_orders (order_id A37) and the result of orders.status (status packed, depot Oslo).",
    ]


def test_provenance_of_every_other_source():
    schema = {"type": "object", "properties": {"unit": {"enum": ["km", "mi"]}, "page": {"default": 1}}}
    tool = ToolSpec(function=Function(name="t.go", parameters=schema))
    arguments = {
        "unit": "km", "page": 1, "who": "zz", "query": "rules of the canal carnival", "note": "", "deep": True,
        "none": None, "stops": ["Oslo", "Rome"], "at": {"gate": "B1"}, "policy": 30,
    }  # fmt: skip
    system = Message(role=Role.SYSTEM, content="The fee is $30.")
    turns = [system, user("From Oslo to Rome, I like the canal carnival.")]
    one = trajectory(*turns, says(None, *[("t.go", {k: v}) for k, v in arguments.items()]), tools=[tool])
    text = [explained(trajectory(*turns, says(None, ("t.go", {k: v})), tools=[tool]))[0] for k, v in arguments.items()]
    assert text == [
        "The unit km is a choice of the tool.",
        "The page 1 is the default.",
        "The who zz is new.",
        "The query rules of the canal carnival is in the user's words.",
        "The note is empty.",
        "The deep is true.",
        "The none is null.",
        "The stops Oslo, Rome is from the user.",
        "The gate B1 is new.",
        "The policy 30 is from the system message.",
    ]
    assert explained(one)[0].count(";") == 5, "a long call is cut to six clauses"


def test_provenance_of_talk_of_repeats_and_of_calls_without_arguments():
    one = trajectory(
        user("Help me."),
        says("Which order?"),
        user("The last."),
        says(None, ("t.last", {}), number=1),
        gives("order A7 is late", "t.last", "c10"),
        says("", ("t.get", {"id": "A7", "x": "zz9"}), number=2),
        gives({"error": "no", "x": "zz9"}, "t.get", "c20", is_error=True),
        says("", ("t.get", {"x": "zz9"}), number=3),
        gives("[]", "t.get", "c30"),
        says("I will look again for you."),
        user("Do."),
        says("I cannot find it."),
    )
    assert explained(one) == [
        "The user must be asked.",
        "The call needs no arguments.",
        "The id A7 is from the result of t.last (result); the x zz9 is new.",
        "The x zz9 is from an earlier call.",
        "The user must be told.",
        "The answer is in no result.",
    ]


async def augmented(one: Trajectory, teacher, traces=None, **more) -> tuple[Trajectory, AugmentCounts]:
    counts = AugmentCounts()
    out = [t async for t in augment([one], teacher, traces or MemoryTraces(), counts=counts, **more)]
    assert len(out) == 1
    return out[0], counts


async def test_everything_but_the_reasoning_stays_byte_for_byte():
    out, counts = await augmented(SHOP, ProvenanceTeacher())
    for before, after in zip(SHOP.messages, out.messages, strict=True):
        if before.content == "I need the depot, so I get the status.":
            assert (after.reasoning_content, after.content) == (before.content, "")
            after = after.model_copy(update={"content": before.content})  # noqa: PLW2901
        assert after.model_copy(update={"reasoning_content": None}) == before
        assert bool(after.reasoning_content) == (after.role is Role.ASSISTANT)
    assert out.model_copy(update={"messages": []}) == SHOP.model_copy(update={"messages": []})
    assert (counts.turns, counts.verbatim, counts.generated, counts.empty, counts.leak_rate) == (4, 1, 3, 0, 0.0)
    again, counts = await augmented(out, ProvenanceTeacher())
    assert again == out
    assert counts.verbatim == 4


class Scripted:
    """Says the same thing to every question."""

    free = False

    def __init__(self, *texts: str) -> None:
        self.texts, self.identity, self.asked = texts, "scripted/1", []

    async def think(self, questions: Sequence[Question]) -> list[Thought]:
        self.asked += questions
        return [Thought(self.texts[min(q.attempt, len(self.texts) - 1)], 10, 2, 0.5) for q in questions]


async def test_a_leak_is_asked_again_and_then_left_empty():
    out, counts = await augmented(SHOP, Scripted("It is in Oslo."))
    thoughts = [m.reasoning_content for m in out.messages if m.role is Role.ASSISTANT]
    assert thoughts == [None, None, "I need the depot, so I get the status.", "It is in Oslo."]
    assert (counts.generated, counts.empty, counts.asked, counts.refused) == (1, 2, 5, 4)
    assert (counts.leak_rate, counts.tokens_in, counts.tokens_out, counts.cost) == (0.8, 50, 10, 2.5)
    out, counts = await augmented(SHOP, Scripted("It is in Oslo.", "I look."))
    assert (counts.generated, counts.empty, counts.asked, counts.refused) == (3, 0, 5, 2)


async def test_a_teacher_never_sees_the_result_or_anything_later():
    teacher = Scripted("I look.")
    await augmented(SHOP, teacher)
    for question in teacher.asked:
        at = len(question.history)
        assert [*question.history, question.chosen] == SHOP.messages[: at + 1]


async def test_a_second_run_costs_nothing(tmp_path: Path):
    path = tmp_path / "traces"
    teacher = Scripted("It is in Oslo.")
    first, _ = await augmented(SHOP, teacher, FileTraces(path))
    with path.open("ab") as file:
        file.write(b'["cut')
    again, counts = await augmented(SHOP, teacher, FileTraces(path))
    assert again == first
    assert (counts.asked, counts.reused, counts.generated, counts.empty) == (0, 3, 1, 2)
    await FileTraces(path).put({"k": "v"})
    assert FileTraces(path).traces["k"] == "v"
    other = Scripted("I look.")
    other.identity = "scripted/2"
    _, counts = await augmented(SHOP, other, FileTraces(path))
    assert counts.asked == 3, "another teacher's traces are not taken"


async def test_order_is_kept_and_concurrency_bounded():
    class Slow:
        free, identity = False, "slow"
        working = most = 0

        async def think(self, questions):
            self.working += 1
            self.most = max(self.most, self.working)
            await asyncio.sleep(0.001 * (len(questions[0].history) % 3))
            self.working -= 1
            return [Thought("I look.") for _ in questions]

    read = 0

    def many() -> Iterator[Trajectory]:
        nonlocal read
        for i in range(30):
            read += 1
            yield trajectory(*[user("x")] * (i % 5 + 1), says("It is done.")).model_copy(update={"id": str(i)})

    teacher, out = Slow(), []
    async for one in augment(many(), teacher, MemoryTraces(), concurrency=4):
        out.append(one.id)
        assert read <= len(out) + 4, "the corpus is never read ahead of the work"
    assert out == [str(i) for i in range(30)]
    assert teacher.most <= 4


async def test_a_consumer_may_stop_in_the_middle():
    stream = augment([SHOP] * 20, Scripted("I look."), MemoryTraces(), concurrency=3)
    async for _ in stream:
        break
    await stream.aclose()
    assert len(asyncio.all_tasks()) == 1


@settings(max_examples=30, deadline=None)
@given(st.lists(st.sampled_from(["Sure, I'll look for you.", "I need it, so I call.", "", "It is 12."]), min_size=1, max_size=6))
def test_counts_add_up(texts):
    messages = [user("Go.")]
    for i, text in enumerate(texts):
        messages += [says(text, ("t.go", {"n": i}), number=i), gives(str(i), "t.go", f"c{i}0")]
    _, counts = asyncio.run(augmented(trajectory(*messages), Scripted("The number is 3.")))
    assert counts.turns == counts.verbatim + counts.generated + counts.empty == len(texts)


@pytest.fixture
def endpoint() -> Iterator[tuple[str, list, list]]:
    requests: list[tuple[str, dict]] = []
    answers: list[tuple[int, dict]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            requests.append((self.headers["authorization"], body))
            status, answer = answers.pop(0) if answers else (200, {})
            text = {
                "choices": [{"message": {"content": "<think>hm</think> I look."}}],
                "usage": {"prompt_tokens": 100, "completion_tokens": 5},
            }
            self.send_response(status)
            self.end_headers()
            self.wfile.write(json.dumps(answer or text).encode())

        def log_message(self, *_: object) -> None: ...

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}/v1", requests, answers
    server.shutdown()
    server.server_close()
    thread.join()


async def test_a_teacher_behind_an_openai_endpoint(endpoint):
    url, requests, answers = endpoint
    answers.append((503, {"error": "busy"}))
    settings = TeacherSettings(url=url, model="m", key="sk-secret", price_in=1.0, price_out=2.0, max_history_chars=200)
    async with OpenAITeacher(settings) as teacher:
        out, counts = await augmented(SHOP, teacher)
    assert next(m.reasoning_content for m in out.messages if m.role is Role.ASSISTANT) == "I look."
    assert len(requests) == 4, "one retry after the 503"
    assert (counts.tokens_in, counts.tokens_out) == (300, 15)
    assert counts.cost == pytest.approx(330e-6)
    assert {key for key, _ in requests} == {"Bearer sk-secret"}
    assert "sk-secret" not in repr(settings) + teacher.identity
    prompts = [body["messages"][1]["content"] for _, body in requests]
    assert all("Oslo" not in prompt for prompt in prompts if "orders.list_orders" in prompt and "final" not in prompt)
    assert any("characters left out" in prompt for prompt in prompts)


async def test_an_endpoint_that_refuses_or_talks_nonsense_is_away(endpoint):
    url, _, answers = endpoint
    async with OpenAITeacher(TeacherSettings(url=url, model="m")) as teacher:
        for answer in ((401, {"error": "key"}), (200, {"choices": []})):
            answers.append(answer)
            with pytest.raises(JudgeError):
                await augmented(trajectory(user("Hello"), says("Hello.")), teacher)
