"""For users' tests and ours: a tiny tokenizer, and engines and caches without weights or a database."""

from pathlib import Path

import orjson
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

from cacherl import tool_formats

SPECIAL = ("<|endoftext|>", "<|im_start|>", "<|im_end|>")
MARKS = ("<think>", "</think>", "<tool_call>", "</tool_call>", "<tool_response>", "</tool_response>", "<tools>", "</tools>")
CORPUS = (
    '{"type": "function", "function": {"name": "orders.find", "description": "Find the orders of a customer by name.", "parameters": '
    '{"type": "object", "properties": {"customer": {"type": "string"}, "limit": {"type": "integer"}}, "required": ["customer"]}}}',
    '{"name": "weather", "arguments": {"city": "Oslo", "day": "monday"}}',
    "system user assistant # Tools Call these functions as needed: Write each call as <name> <object>",
    "The user asks for the order, so the tool must be called with the name that the user gave. The answer is in the result.",
    '{"error": "not found"} {"id": "A12", "total": 40, "currency": "EUR"} unknown tool; available tools:',
)


def tiny_tokenizer(path: Path | str, *, vocabulary: int = 512) -> Path:
    """Writes a byte-level BPE tokenizer of at most `vocabulary` ids with the qwen template to a folder; always the same bytes."""
    folder = Path(path)
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary - len(SPECIAL) - len(MARKS),
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.add_tokens([AddedToken(text, special=True, normalized=False) for text in SPECIAL])
    tokenizer.add_tokens([AddedToken(text, special=False, normalized=False) for text in MARKS])
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "eos_token": "<|im_end|>",
        "pad_token": "<|endoftext|>",
        "clean_up_tokenization_spaces": False,
        "padding_side": "left",
    }
    eos = [tokenizer.token_to_id("<|im_end|>"), tokenizer.token_to_id("<|endoftext|>")]
    (folder / "tokenizer_config.json").write_bytes(orjson.dumps(config, option=orjson.OPT_INDENT_2))
    (folder / "generation_config.json").write_bytes(orjson.dumps({"eos_token_id": eos, "pad_token_id": eos[1]}))
    (folder / "chat_template.jinja").write_text(tool_formats.template("qwen"), encoding="utf-8")
    return folder
