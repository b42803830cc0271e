"""How the demonstrator errs, as real logs do. One flaw a recording at most, drawn from the shares in `demo.config`.

Each flaw is the expert's script with one move done badly, run in the live world, so that every recorded result is one the tools gave.
The kind of the flaw is kept in the recording's metadata for the report; no training code may read it: the label of the outcome is the
world's own goal check.
"""

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random
from typing import Any

from demo.config import DataSettings
from demo.expert import GAVE_UP, SCRIPTS, Demonstrator, Step, Stuck
from demo.tasks import Exercise
from demo.world.engine import TOOLS, Session, Verdict


class Flaw(StrEnum):
    """What goes wrong in a recording."""

    NONE = "none"
    """Nothing: the expert's own run."""
    SKIP_LAST = "skip_last"
    """The last look-up is not made; its result is made up."""
    GIVE_UP = "give_up"
    """Stops before the last call and says that nothing was found."""
    ASK_WRONG = "ask_wrong"
    """One call names something that does not exist; after its error, stops."""
    WRONG_RECORD = "wrong_record"
    """Follows another record than the one asked for (or another value) to the end."""


ELSEWHERE = (Flaw.SKIP_LAST, Flaw.GIVE_UP, Flaw.ASK_WRONG, Flaw.WRONG_RECORD)


@dataclass
class Flawed(Demonstrator):
    """A demonstrator that does move `at` badly."""

    flaw: Flaw = Flaw.NONE
    at: int = -1
    """Index of the call at which the flaw happens."""
    turned: bool = field(default=False, init=False)
    """Whether another record or value was taken."""

    def call(self, tool: str, because: str, /, **arguments: Any) -> dict[str, Any]:
        """As the expert's, but for the flawed one."""
        if len(self.steps) != self.at:
            return super().call(tool, because, **arguments)
        if self.flaw is Flaw.SKIP_LAST:
            return TOOLS[tool].guess(self.rng, arguments)
        if self.flaw is Flaw.GIVE_UP:
            raise Stuck(tool)
        return super().call(tool, because, **self._absent(arguments))

    def pick(self, records: list[dict[str, Any]], key: str, wanted: str) -> dict[str, Any]:
        """Another record where that is the flaw."""
        if self.flaw is not Flaw.WRONG_RECORD:
            return super().pick(records, key, wanted)
        self.turned = True
        return self.rng.choice([record for record in records if record[key] != wanted])

    def asked(self, value: str, pool: tuple[str, ...]) -> str:
        """Another value where that is the flaw and no record was mistaken yet."""
        if self.flaw is not Flaw.WRONG_RECORD or self.turned:
            return value
        self.turned = True
        return self.rng.choice([other for other in pool if other != value])

    def _absent(self, arguments: dict[str, Any]) -> dict[str, Any]:
        """The arguments with one that exists nowhere in the town."""
        name = self.rng.choice(sorted(arguments))
        wrong = -1 if isinstance(arguments[name], int) else self.rng.choice(("unknown", "none", "X11"))
        return arguments | {name: wrong}


@dataclass(frozen=True)
class Demonstration:
    """One recording: the calls that were made, the answer that was given, and the world's verdict."""

    flaw: Flaw
    steps: list[Step]
    answer: str
    verdict: Verdict


def drawn_flaw(rng: Random, kind: str, settings: DataSettings) -> Flaw:
    """The flaw of one recording: the habit first, then the general share."""
    if kind in settings.habit_kinds and rng.random() < settings.flaws.habit:
        return Flaw.SKIP_LAST
    if rng.random() < settings.flaws.elsewhere:
        return rng.choice(ELSEWHERE)
    return Flaw.NONE


def perform(exercise: Exercise, flaw: Flaw, rng: Random, analytical: float) -> Demonstration:
    """Runs the script of an exercise with a flaw in a fresh session.

    A kind that offers no other record to follow is skipped at the last look-up instead, and labelled so.
    """
    count = len(exercise.task.reference.calls) if exercise.task.reference else 0
    at = {Flaw.SKIP_LAST: count - 1, Flaw.GIVE_UP: rng.randint(1, count - 1), Flaw.ASK_WRONG: rng.randrange(count)}.get(flaw, -1)
    session = Session(exercise.town)
    who = Flawed(session, rng, analytical, flaw=flaw, at=at)
    try:
        text = SCRIPTS[exercise.kind](who, exercise.slots).text
    except Stuck:
        text = GAVE_UP
    if flaw is Flaw.WRONG_RECORD and not who.turned:
        return perform(exercise, Flaw.SKIP_LAST, rng, analytical)
    return Demonstration(flaw, who.steps, text, session.check(exercise.goal, text))


def demonstrate(exercise: Exercise, trial: int, settings: DataSettings) -> Demonstration:
    """The recording of one trial of a task, the same for the same arguments."""
    rng = Random(f"trial|{settings.seed}|{exercise.id}|{trial}")
    return perform(exercise, drawn_flaw(rng, exercise.kind, settings), rng, settings.flaws.analytical)
