"""Digests of tensors with their names, by which damage and other weights are noticed."""

import hashlib
from collections.abc import Iterable

import torch
from torch import Tensor


def tensor_digest(tensors: Iterable[tuple[str, Tensor]], start: str = "") -> "hashlib.blake2b":
    """
    The digest of some text, then of each name and the bytes of its tensor, in this order.

    Args:
        tensors (`Iterable[tuple[str, Tensor]]`): names and tensors, on any device.
        start (`str`, *optional*): the text.
    """
    digest = hashlib.blake2b(start.encode(), digest_size=16)
    for name, tensor in tensors:
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().data)
    return digest
