"""A CPU that has no compiled kernels.

SGLang's own CPU platform imports a kernel package for particular processors. As an out-of-tree platform this one takes none of those
branches, and the three answers below lead to the reference implementations: attention by torch, fused operations by their `native`
form, no Triton.
"""
# pyright: reportMissingImports=false
# SGLang lives in an environment of its own, not in the one that is checked

from typing import Any

from sglang.srt.platforms.cpu import CpuDeviceMixin
from sglang.srt.platforms.device_mixin import PlatformEnum
from sglang.srt.platforms.interface import PlatformCapabilities, SRTPlatform


class PlainTorchPlatform(CpuDeviceMixin, SRTPlatform):
    """SGLang's platform interface, answered for plain torch."""

    _enum = PlatformEnum.OOT
    device_name = device_type = "cpu"
    capabilities = PlatformCapabilities(supports_triton=False, graph_capture=False)

    def get_default_attention_backend(self) -> str:
        """Attention by torch."""
        return "torch_native"

    def get_dispatch_key_name(self) -> str:
        """Fused operations in their reference form."""
        return "native"

    def is_pin_memory_available(self, device: Any = None) -> bool:
        """Never: there is no device to copy to."""
        return False
