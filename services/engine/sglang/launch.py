"""Starts the unmodified SGLang server without an accelerator. Runs in `.venv-sglang`; takes SGLang's own options.

    .venv-sglang/bin/python services/engine/sglang/launch.py --model-path DIR --port P …

Three things that a GPU machine has are declared absent before SGLang is imported. SGLang starts its scheduler and its detokeniser as
fresh processes that import this file again, so the top level does it for them too. Nothing else may happen at import.
"""
# pyright: reportMissingImports=false
# SGLang lives in an environment of its own, not in the one that is checked

import ctypes
import functools
import importlib.util
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

os.environ.setdefault("SGLANG_PLATFORM", "cacherl_cpu")
# the server's processes each run a thread pool; more than one thread in each and they fight for the cores
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("MKL_NUM_THREADS", "1")

import torch


def declare_vision_operators() -> None:
    """The wheel of torchvision is built for CUDA: its operators do not load, yet its import asks for the schemas of two of them."""
    for name in ("nms", "qnms"):
        torch.library.define(f"torchvision::{name}", "(Tensor dets, Tensor scores, float iou_threshold) -> Tensor")


def ignore_pinning() -> None:
    """Pinned memory speeds up copies to a device. Some code asks for it unasked; without a device it is an error, so it is let fall."""

    def unpinned(make: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        @functools.wraps(make)
        def wrapper(*args: Any, **kwargs: Any) -> torch.Tensor:
            kwargs.pop("pin_memory", None)
            return make(*args, **kwargs)

        return wrapper

    torch.Tensor.pin_memory = lambda self, *_args, **_kwargs: self  # pyright: ignore[reportAttributeAccessIssue]
    for name in ("tensor", "empty", "zeros", "ones", "full", "arange", "empty_like", "zeros_like"):
        setattr(torch, name, unpinned(getattr(torch, name)))


def stand_in_for_triton() -> None:
    """Triton kernels are defined at import and never run here: SGLang's own stand-in for machines without Triton, from its wheel.

    It installs itself only on another kind of machine, so its parts are put together here.
    """
    if importlib.util.find_spec("triton") is not None:
        return
    package = importlib.util.find_spec("sglang")  # does not import it
    if package is None or package.origin is None:
        sys.exit("launch: SGLang is not installed here; run services/engine/sglang/setup.sh and use .venv-sglang/bin/python")
    spec = importlib.util.spec_from_file_location("_triton_stand_in", Path(package.origin).parent / "_platform_stubs.py")
    assert spec is not None
    assert spec.loader is not None
    stubs = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = stubs
    spec.loader.exec_module(stubs)
    sys.meta_path.insert(0, stubs._TritonFinder())
    triton = stubs._make_mock("triton")
    triton.__version__ = "3.0.0"
    triton.cdiv, triton.next_power_of_2, triton.Config = stubs._cdiv, stubs._next_power_of_2, stubs._Config
    for path in ("language", "runtime", "runtime.jit", "compiler", "backends", "testing"):
        parent, _, child = f"triton.{path}".rpartition(".")
        setattr(sys.modules[parent], child, stubs._make_mock(f"triton.{path}"))
    triton.language.constexpr = type("constexpr", (), {"__init__": lambda self, value=None: setattr(self, "value", value)})


if not torch.accelerator.is_available():
    declare_vision_operators()
    ignore_pinning()
    stand_in_for_triton()


def die_with_parent() -> None:
    """Asks the kernel (Linux) for SIGTERM when the process that started this one ends."""
    pr_set_pdeathsig = 1
    ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)


def main() -> None:
    """What `python -m sglang.launch_server` does, and takes its children along when it ends."""
    from sglang.launch_server import run_server  # noqa: PLC0415
    from sglang.srt.plugins import load_plugins  # noqa: PLC0415
    from sglang.srt.server_args import prepare_server_args  # noqa: PLC0415
    from sglang.srt.utils import kill_process_tree  # noqa: PLC0415

    if os.environ.get("CACHERL_DIE_WITH_PARENT") == "1":
        die_with_parent()
    load_plugins()
    try:
        run_server(prepare_server_args(sys.argv[1:]))
    finally:
        kill_process_tree(os.getpid(), include_parent=False)


if __name__ == "__main__":
    main()
