"""The job kind `init`: a tokenizer trained on the demonstrations, and a randomly initialised policy of the Qwen3 architecture.

The texts that the tokenizer is trained on are the renderings that the policy will be trained on. They are made by the renderer itself on
a byte-level tokenizer without merges, so there is one way to write a conversation and no second one for the tokenizer.
"""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice

import torch
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from cacherl.api.trainer import InitSpec, ModelSpec, TokenizerSpec
from cacherl.errors import DataError
from cacherl.rendering import Renderer
from cacherl.tool_formats import template
from cacherl.tool_spec import ToolSpec
from cacherl.trajectory import Message, Trajectory
from cacherl.wire import Json
from services.trainer import tokenizer as training
from services.trainer.demonstrations import renderer_of
from services.trainer.job import JobContext
from services.trainer.phrases import phrases

FORMAT = "qwen"
ROPE_THETA = 10_000.0
RENDERED = 1000


def build(trajectories: Callable[[], Iterable[Trajectory]], spec: InitSpec) -> tuple[Qwen3ForCausalLM, PreTrainedTokenizerFast]:
    """Tokenizer and model. The same demonstrations and spec give the same bytes."""
    tokenizer = build_tokenizer(trajectories, spec.tokenizer)
    return build_model(spec.model, tokenizer, spec.seed), tokenizer


def build_tokenizer(trajectories: Callable[[], Iterable[Trajectory]], spec: TokenizerSpec) -> PreTrainedTokenizerFast:
    """Trains the tokenizer on renderings of the demonstrations, read once, the first of them twice where phrases are wanted."""
    text = text_of(renderer_of(training.train([], TokenizerSpec(vocab_size=300), template(FORMAT))))
    pieces = training.boilerplate(text) if spec.boilerplate else []
    if spec.phrases:
        fixed = [*training.CONTROL, *training.MARKS, *pieces]
        first = (training.chunks(found, fixed) for found in islice(_texts(trajectories(), text), RENDERED))
        pieces += phrases(first, spec.pattern or training.PATTERN, spec.phrases)
    return training.train(_texts(trajectories(), text), spec, template(FORMAT), pieces)


def text_of(renderer: Renderer) -> training.Render:
    """Renders conversations to text."""

    def render(messages: Sequence[Message], tools: Sequence[ToolSpec]) -> str:
        return renderer.decode(renderer.conversation(messages, tools).ids_T)

    return render


def _texts(trajectories: Iterable[Trajectory], render: training.Render) -> Iterator[str]:
    """Whole renderings of the first demonstrations, from which the glue is learnt; of the others what people and tools said."""
    for number, trajectory in enumerate(trajectories):
        if number >= RENDERED:
            yield "\n".join(_said(trajectory.messages))
            continue
        try:
            yield render(trajectory.messages, trajectory.tools)
        except DataError:
            continue  # without an assistant's message: SFT leaves it out and counts it


def _said(messages: Sequence[Message]) -> Iterator[str]:
    """Contents, reasoning and calls, as a template would write them but for its own glue."""
    for message in messages:
        yield from filter(None, (message.reasoning_content, message.content))
        for call in message.tool_calls:
            yield json.dumps({"name": call.function.name, "arguments": call.function.arguments}, ensure_ascii=False)


def build_model(spec: ModelSpec, tokenizer: PreTrainedTokenizerFast, seed: int) -> Qwen3ForCausalLM:
    """A model from random initialisation, its embedding tied to its head."""
    torch.manual_seed(seed)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=spec.hidden,
        intermediate_size=spec.feed_forward,
        num_hidden_layers=spec.layers,
        num_attention_heads=spec.heads,
        num_key_value_heads=spec.kv_heads,
        head_dim=spec.head_dim,
        max_position_embeddings=spec.context,
        tie_word_embeddings=True,
        rope_parameters={"rope_type": "default", "rope_theta": ROPE_THETA},
    )
    model = Qwen3ForCausalLM(config).float()
    with torch.no_grad():
        torch.nn.init.normal_(model.model.embed_tokens.weight, 0.0, spec.embedding_std)
    assert model.generation_config is not None
    for owner in (model.config, model.generation_config):
        owner.eos_token_id = tokenizer.convert_tokens_to_ids(str(tokenizer.eos_token))
        owner.pad_token_id = tokenizer.convert_tokens_to_ids(str(tokenizer.pad_token))  # pyright: ignore[reportAttributeAccessIssue]
    return model


def run(spec: InitSpec, job: JobContext) -> dict[str, Json]:
    """Makes the policy and registers its first version."""
    job.progress.stage("training the tokenizer")
    model, tokenizer = build(lambda: _stoppable(job, job.trajectories(spec.datasets)), spec)
    job.progress.stage("writing the policy")
    written = job.save_policy(spec.policy, model, tokenizer, {"spec": spec.model_dump(mode="json")})
    return {
        "policy": {"name": written.name, "version": written.version},
        "vocabulary": len(tokenizer),
        "parameters": sum(p.numel() for p in model.parameters()),
        "datasets": [job.dataset(name, "trajectories").id for name in spec.datasets],
    }


def _stoppable(job: JobContext, trajectories: Iterable[Trajectory]) -> Iterator[Trajectory]:
    for trajectory in trajectories:
        job.progress.check()
        yield trajectory
