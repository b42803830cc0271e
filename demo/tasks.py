"""Tasks: a question about a town, the tools that are shown with it, and the reference that the world itself gives.

The reference is a clean run of the expert in the live world: calls, answer, facts and goal. The kinds and how many of each a town has
are in `demo.config`. A task names neither its town nor any id: those must be looked up.
"""

from dataclasses import dataclass
from random import Random

from cacherl.tool_call import ToolCall
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Fact, Message, Reference, Role, Task
from demo.config import DataSettings
from demo.expert import SCRIPTS, Expert, Slots
from demo.world import values
from demo.world.engine import DOMAINS, Goal, Session
from demo.world.town import Town, town, town_name

QUESTIONS: dict[str, tuple[str, ...]] = {
    "orders.status": (
        "What is the status of the {item} order of {name}, and at which depot is it?",
        "Tell me the status and depot for the {item} that {name} ordered.",
    ),
    "orders.refund": (
        "If the {item} order of {name} is delayed or lost, refund it and give me the code, otherwise give me the depot.",
        "{name} ordered a {item}. When it is delayed or lost I want a refund and its code, else the depot.",
    ),
    "calendar.details": (
        "In which room and week is the {title} of {name}?",
        "{name} has a {title}. Tell me the room and the week.",
    ),
    "calendar.move": (
        "Move the {title} of {name} to {week} and tell me the new room.",
        "{name} wants the {title} in {week}. Move it and give me the new room.",
    ),
    "calendar.move_key": (
        "Move the {title} of {name} to {week} and tell me the key of the new room.",
        "{name} wants the {title} in {week}. Move it and give me the key of the new room.",
    ),
    "calendar.key": (
        "Which key opens the room of the {title} of {name}?",
        "{name} has a {title}. Tell me the key of its room.",
    ),
    "accounts.balance": ("What is the account balance of {name}?", "How much money does {name} have?"),
    "accounts.rate": (
        "What is the rate from the account currency of {name} to {target}?",
        "Tell me the exchange rate for {name} into {target}.",
    ),
    "accounts.convert": ("What is the account balance of {name} in {target}?", "How much {target} does {name} have?"),
    "handbook.fee": ("What is the fee for the {topic}, and at which office?", "Tell me the fee and the office for the {topic}."),
    "handbook.desk": ("At which desk do I ask about the {topic}?", "Tell me the desk for the {topic}."),
}
"""How each kind is asked."""


@dataclass(frozen=True)
class Exercise:
    """A task with what only the demo may know: its kind, what it asks for, its goal."""

    id: str
    kind: str
    town: str
    slots: Slots
    question: str
    goal: Goal
    task: Task


def _subjects(kind: str, place: Town) -> list[Slots]:
    """Everything in a town that a question of this kind can be about."""
    match kind.split("."):
        case ["orders", _]:
            return [{"name": resident.name, "item": order.item} for resident in place.residents for order in resident.orders]
        case ["calendar", _]:
            return [{"name": resident.name, "title": meeting.title} for resident in place.residents for meeting in resident.meetings]
        case ["accounts", _]:
            return [{"name": resident.name} for resident in place.residents]
        case _:
            return [{"topic": page.topic} for page in place.pages]


def _chosen(rng: Random, kind: str, number: int, place: Town) -> Slots:
    """What the `number`-th question of a kind is about: two of a kind never ask about the same thing."""
    subjects = _subjects(kind, place)
    Random(f"subjects|{place.name}|{kind}").shuffle(subjects)
    slots = subjects[(number - 1) % len(subjects)]
    if kind in {"calendar.move", "calendar.move_key"}:
        meeting = next(m for m in place.by_name[slots["name"]].meetings if m.title == slots["title"])
        slots["week"] = rng.choice([week for week in values.WEEKS if week != meeting.week])
    if kind in {"accounts.rate", "accounts.convert"}:
        base = place.by_name[slots["name"]].currency
        slots["target"] = rng.choice([currency for currency in values.CURRENCIES if currency != base])
    return slots


def exercise(settings: DataSettings, town_: Town, kind: str, number: int) -> Exercise:
    """One task of a town, the same for the same arguments."""
    task_id = f"{town_.name}/{kind.replace('.', '-').replace('_', '-')}-{number}"
    rng = Random(f"task|{settings.seed}|{task_id}")
    slots = _chosen(rng, kind, number, town_)
    question = rng.choice(QUESTIONS[kind]).format(**slots)
    domain = kind.split(".", maxsplit=1)[0]
    tools: list[ToolSpec] = [tool.spec() for tool in DOMAINS[domain]]
    rng.shuffle(tools)
    session = Session(town_.name)
    expert = Expert(session, rng)
    answer = SCRIPTS[kind](expert, slots)
    goal = Goal(state=session.changes.plain(), answer=answer.needs)
    task = Task(
        id=task_id,
        messages=[Message(role=Role.USER, content=question)],
        tools=tools,
        scenario=town_.name,
        reference=Reference(
            answer=answer.text,
            calls=[ToolCall(name=step.tool, arguments=step.arguments) for step in expert.steps],
            facts=[Fact(value=value) for value in answer.needs],
            goal=goal.plain(),
        ),
        metadata={"kind": kind, "domain": domain, "split": "validation" if town_.validation else "train"},
    )
    return Exercise(task_id, kind, town_.name, slots, question, goal, task)


def exercises(settings: DataSettings, first: int, towns: int) -> list[Exercise]:
    """All tasks of `towns` towns, numbered from `first` on, in a fixed order."""
    return [
        exercise(settings, town(town_name(first + index)), kind, number)
        for index in range(towns)
        for kind, count in settings.roster.items()
        for number in range(1, count + 1)
    ]
