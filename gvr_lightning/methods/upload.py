"""From the host to the device. Imports torch only."""

import torch
from torch import Tensor


def upload(numbers: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU's on a device, or as it is if it is there: nobody waits for the copy.

    A GPU takes it from pinned memory, when its turn comes; of other memory the host would have to wait.
    """
    if not numbers.is_cpu or device.type == "cpu":
        return numbers.to(device)
    if torch.compiler.is_compiling():  # which pins nothing
        return numbers.to(device, non_blocking=True)
    pinned = numbers.pin_memory() if device.type == "cuda" and torch.cuda.is_available() else numbers
    return pinned.to(device, non_blocking=True)
