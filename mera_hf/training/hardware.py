"""What a training ran on, for its log and the card."""

import platform

import torch


def hardware(processes: int = 1) -> dict:
    """What computes: `device`, the accelerator's name or the processor's architecture, and how many: `accelerators`, or
    `threads` of all processes together."""
    if torch.cuda.is_available():
        return {"device": torch.cuda.get_device_name(), "accelerators": processes}
    return {"device": f"CPU ({platform.machine()})", "threads": processes * torch.get_num_threads()}
