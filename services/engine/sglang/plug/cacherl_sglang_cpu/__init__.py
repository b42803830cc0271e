"""Offers SGLang a platform of its own, only where it is asked for by name: `SGLANG_PLATFORM=cacherl_cpu`."""

import os


def activate() -> str | None:
    """The platform's class, or None where it was not asked for (SGLang's plug-in contract)."""
    wanted = os.environ.get("SGLANG_PLATFORM") == "cacherl_cpu"
    return "cacherl_sglang_cpu.plain.PlainTorchPlatform" if wanted else None
