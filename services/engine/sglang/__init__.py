"""The real SGLang server on a machine without an accelerator: how its environment is built, how it is started, and stopped again.

Nothing of SGLang is changed: a platform plug-in (`plug/`) and a launcher (`launch.py`) choose its reference path in plain PyTorch.
"""
