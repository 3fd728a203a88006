"""
Classifiers on one embedding, `(B, D)` to logits `(B, C)`, which grow by classes: linear, cosine, and by proxies.

Growth copies what was learned and draws the rest; old logits do not change.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import initialization as init


class HeadLinear(nn.Linear):
    """
    Linear layer of a classifier. It has its own class because it is initialised differently: `transformers`
    initialises modules of remote code only if they own a parameter, so the parent module cannot do it.
    """


def init_like_pytorch(layer: nn.Linear | nn.Conv2d) -> None:
    """Default initialisation of PyTorch, which the paper keeps for the patch projection and the classifiers."""
    init.kaiming_uniform_(layer.weight, a=math.sqrt(5))
    if layer.bias is not None:
        bound = 1 / math.sqrt(layer.weight[0].numel())
        init.uniform_(layer.bias, -bound, bound)


def grown_linear(layer: HeadLinear, num_inputs: int, num_outputs: int) -> HeadLinear:
    """
    A larger layer with the weights of `layer` in front. Further inputs start with no weight on the old outputs, and
    all weights of further outputs are drawn.

    Args:
        layer (`HeadLinear`): as it was learned.
        num_inputs, num_outputs (`int`): sizes of the larger layer.
    """
    larger = HeadLinear(num_inputs, num_outputs, bias=layer.bias is not None)
    larger = larger.to(device=layer.weight.device, dtype=layer.weight.dtype)
    with torch.no_grad():
        larger.weight[: layer.out_features] = 0
        larger.weight[: layer.out_features, : layer.in_features] = layer.weight
        if layer.bias is not None:
            larger.bias[: layer.out_features] = layer.bias
    return larger.train(layer.training)


class LinearHead(nn.Module):
    """
    Layer normalisation and a linear layer.

    Args:
        config: has `hidden_size`, `layer_norm_eps` and `head_bias`.
        num_classes (`int`): C.
    """

    def __init__(self, config: Any, num_classes: int) -> None:
        super().__init__()
        self.layernorm = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.linear = HeadLinear(config.hidden_size, num_classes, bias=config.head_bias)

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.linear(self.layernorm(embeddings))

    def grow(self, num_new_classes: int) -> None:
        """Makes room for new classes behind those that are known."""
        self.linear = grown_linear(self.linear, self.linear.in_features, self.linear.out_features + num_new_classes)


class ProxyHead(nn.Module):
    """
    Several proxies a class (PODNet, ECCV 2020, section 3.2). With an embedding and proxies of length 1, the similarity
    to proxy k of class c is `s_ck = -|e - w_ck|^2 = 2 cos - 2`; the logit of the class is
    `scale * sum_k softmax_k(s_ck) * s_ck`. The scale is learned.

    Args:
        config: has `hidden_size`, `num_proxies` and `head_scale_init`.
        num_classes (`int`): C.
    """

    def __init__(self, config: Any, num_classes: int) -> None:
        super().__init__()
        self.scale_init = config.head_scale_init
        self.num_proxies = self.proxies_of(config)
        self.weight = nn.Parameter(torch.empty(num_classes * self.num_proxies, config.hidden_size))
        self.scale = nn.Parameter(torch.empty(()))
        self.reset_parameters()

    def proxies_of(self, config: Any) -> int:
        """Proxies of each class."""
        num_proxies: int = config.num_proxies
        return num_proxies

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Draws the weights as PyTorch draws those of a linear layer; the scale gets its start value."""
        init.kaiming_uniform_(self.weight, a=math.sqrt(5))
        init.constant_(self.scale, self.scale_init)

    def cosines(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Cosine of each embedding with each proxy, `(B, C, K)`; in float32 at least."""
        dtype = torch.promote_types(embeddings.dtype, torch.float32)
        # Or autocast would compute the product in half precision.
        with torch.autocast(embeddings.device.type, enabled=False):
            rows = nn.functional.normalize(self.weight.to(dtype), dim=-1)
            cosines = nn.functional.normalize(embeddings.to(dtype), dim=-1) @ rows.T
        return cosines.unflatten(-1, (-1, self.num_proxies))

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        similarities = 2 * self.cosines(embeddings) - 2
        return self.scale * (similarities.softmax(dim=-1) * similarities).sum(dim=-1)

    def grow(self, num_new_classes: int) -> None:
        """Makes room for new classes behind those that are known."""
        old = self.weight
        rows = torch.empty(num_new_classes * self.num_proxies, old.shape[1], device=old.device, dtype=old.dtype)
        init.kaiming_uniform_(rows, a=math.sqrt(5))
        self.weight = nn.Parameter(torch.cat([old.detach(), rows]))


class CosineHead(ProxyHead):
    """
    Cosine similarity with one row a class, times a learned scale (UCIR, CVPR 2019, section 3.2).

    Args:
        config: has `hidden_size` and `head_scale_init`.
        num_classes (`int`): C.
    """

    def proxies_of(self, config: Any) -> int:
        """One row a class."""
        return 1

    def forward(self, embeddings: torch.Tensor) -> torch.Tensor:
        return self.scale * self.cosines(embeddings)[..., 0]


HEADS: dict[str, type[LinearHead] | type[ProxyHead]] = {"linear": LinearHead, "cosine": CosineHead, "proxy": ProxyHead}
