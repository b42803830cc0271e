"""The job kind `augment`: hybrid thinking over a dataset of trajectories (method §2).

It streams; what a teacher wrote is kept beside the datasets by content hash, so a run that broke off, or another over the same logs,
pays nothing twice.
"""

from collections.abc import Iterator
from dataclasses import asdict

from cacherl.api.trainer import AugmentSpec
from cacherl.client.blocking import Blocking
from cacherl.errors import InputError
from cacherl.thinking import AugmentCounts, FileTraces, OpenAITeacher, ProvenanceTeacher, Teacher, augment
from cacherl.thinking.openai import TeacherSettings
from cacherl.trajectory import Trajectory
from cacherl.wire import Json
from services.trainer.job import JobContext
from services.trainer.settings import TrainerSettings

TELL_EVERY = 100


def teacher_of(name: str, settings: TrainerSettings) -> Teacher:
    """The teacher of that name. InputError where there is none, or where it is not configured."""
    if name == "provenance":
        return ProvenanceTeacher()
    if name == "llm" and settings.teacher_url is not None and settings.teacher_model is not None:
        return OpenAITeacher(TeacherSettings(url=settings.teacher_url, model=settings.teacher_model, key=settings.teacher_api_key))
    known = "provenance, llm" if settings.teacher_url is not None else "provenance (for llm set CACHERL_TEACHER_URL and _MODEL)"
    raise InputError(f"there is no teacher {name!r}; there is {known}", slug="unknown-teacher")


def run(spec: AugmentSpec, context: JobContext) -> dict[str, Json]:
    """Writes the dataset `output`. Errors: those of the teacher; what it wrote until then is kept."""
    source = context.dataset(spec.dataset, "trajectories")
    teacher = teacher_of(spec.teacher, context.settings)
    counts = AugmentCounts()
    folder = context.settings.shared_root / "traces"
    folder.mkdir(parents=True, exist_ok=True)
    traces = FileTraces(folder / f"{context.claim.tenant}.{spec.teacher}.{context.claim.id}.ndjson")
    context.progress.stage(f"thinking by {spec.teacher}")

    def thoughtful(blocking: Blocking) -> Iterator[Trajectory]:
        for trajectory in blocking.each(augment(context.trajectories([source.id]), teacher, traces, counts=counts)):
            if counts.trajectories % TELL_EVERY == 0:
                context.progress.check()
                context.progress.advance(counts.trajectories, source.imported + source.repaired, "trajectories")
            yield trajectory

    with Blocking() as blocking:
        made = context.save_dataset(spec.output, "trajectories", thoughtful(blocking))
    context.progress.metric({"step": counts.trajectories, "leak_rate": counts.leak_rate, **asdict(counts)})
    return {"dataset": made.id, "leak_rate": counts.leak_rate, **asdict(counts)}
