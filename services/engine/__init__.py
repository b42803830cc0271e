"""The engines: what turns ids into ids.

`embedded` is our own process for small policies on a CPU; `sglang` builds and starts the real SGLang server on a machine without an
accelerator, for the contract tests. Both are reached over HTTP alone, through the clients in `services.rollout.engines`.
"""
