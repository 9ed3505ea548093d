"""The twelve trained adapters that let the control encoder's features into the decoder of the SDXL UNet.

SUPIR (Yu et al. 2024, arXiv:2401.13627), section 3.1: "ZeroSFT" modulates a decoder input by a control
feature, and cross-attention of the decoder state to a control feature stands before each upsampling.
"""

import itertools

import torch
from torch import Tensor, nn
from torch.nn import functional as F

HIDDEN = 128
HEAD_DIM = 64


class ZeroSFT(nn.Module):
    """Spatial feature transform (Wang et al. 2018, arXiv:1804.02815) of a decoder input by a control feature.

    Args:
        channels: Channels of the control feature, and of the UNet's skip (the two are equal).
        decoder_channels: Channels of the decoder state joined to the skip; 0 at the mid block, which has no
            skip.
    """

    def __init__(self, channels: int, decoder_channels: int = 0) -> None:
        super().__init__()
        total = channels + decoder_channels
        self.param_free_norm = nn.GroupNorm(32, total)
        self.mlp_shared = nn.Sequential(nn.Conv2d(channels, HIDDEN, 3, padding=1), nn.SiLU())
        self.zero_mul = nn.Conv2d(HIDDEN, total, 3, padding=1)
        self.zero_add = nn.Conv2d(HIDDEN, total, 3, padding=1)
        self.zero_conv = nn.Conv2d(channels, channels, 1)

    def forward(self, control: Tensor, skip: Tensor, state: Tensor | None, scale: float) -> Tensor:
        """The input of the next decoder layer.

        Args:
            control: Control feature [N, C, h, w].
            skip: The UNet's skip [N, C, h, w]; at the mid block its state.
            state: Decoder state [N, D, h, w], None at the mid block.
            scale: `control_scale`, 0 to 1: blends the plain input (0) with the modulated, normalised one (1).

        Returns:
            [N, D + C, h, w], the decoder's channels first. The blend is done in float32.
        """

        def join(tensor: Tensor) -> Tensor:
            return tensor if state is None else torch.cat([state, tensor], dim=1)

        norm = self.param_free_norm
        hidden = self.mlp_shared(control)
        modulated = join(skip + self.zero_conv(control)).float()
        modulated = F.group_norm(modulated, norm.num_groups, norm.weight.float(), norm.bias.float(), norm.eps)
        modulated = modulated * (self.zero_mul(hidden).float() + 1) + self.zero_add(hidden)
        # Widened first: a number as a factor leaves half precision as it is.
        blended: Tensor = modulated.mul_(scale).add_(join(skip).float() * (1 - scale))
        return blended.to(skip.dtype)


class CrossAttention(nn.Module):
    """Attention of decoder positions to control positions, single projections, head size 64, no mask."""

    def __init__(self, channels: int, context_channels: int) -> None:
        super().__init__()
        self.heads = channels // HEAD_DIM
        inner = self.heads * HEAD_DIM
        self.to_q = nn.Linear(channels, inner, bias=False)
        self.to_k = nn.Linear(context_channels, inner, bias=False)
        self.to_v = nn.Linear(context_channels, inner, bias=False)
        self.to_out = nn.Sequential(nn.Linear(inner, channels))

    def forward(self, tokens: Tensor, context: Tensor) -> Tensor:
        """[N, L, C] attends to [N, M, K]."""
        q, k, v = (
            part.unflatten(-1, (self.heads, HEAD_DIM)).transpose(1, 2)
            for part in (self.to_q(tokens), self.to_k(context), self.to_v(context))
        )
        mixed: Tensor = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)
        out: Tensor = self.to_out(mixed)
        return out


class ZeroCrossAttn(nn.Module):
    """Adds to the decoder state its cross-attention to a control feature of the same height and width.

    Args:
        channels: Channels of the decoder state.
        context_channels: Channels of the control feature.
    """

    def __init__(self, channels: int, context_channels: int) -> None:
        super().__init__()
        self.norm1 = nn.GroupNorm(32, channels)
        self.norm2 = nn.GroupNorm(32, context_channels)
        self.attn = CrossAttention(channels, context_channels)

    def forward(self, control: Tensor, state: Tensor, scale: float) -> Tensor:
        """``state + scale * attention(norm(state), norm(control))``, [N, C, h, w]."""
        tokens = self.norm1(state).flatten(2).transpose(1, 2)
        context = self.norm2(control).flatten(2).transpose(1, 2)
        mixed: Tensor = self.attn(tokens, context).transpose(1, 2).reshape(state.shape)
        return state + scale * mixed


def build_adapters(block_out_channels: tuple[int, ...], layers_per_block: int = 2) -> nn.ModuleList:
    """The adapters of a three-level UNet, at their indices in the checkpoint; they are used from 11 down.

    Index 0 to 2, 4 to 6 and 8 to 10 modulate the nine decoder layers' inputs, 11 the mid block's output, 3
    and 7 are the cross-attentions before the two upsamplings.

    Args:
        block_out_channels: Channels of the UNet's three levels, (320, 640, 1280) for SDXL.
        layers_per_block: Residual layers of an encoder level; a decoder level has one more.
    """
    skips = skip_channels(block_out_channels, layers_per_block)
    adapters: list[nn.Module] = [ZeroSFT(block_out_channels[-1])]
    state = block_out_channels[-1]
    for level, channels in enumerate(reversed(block_out_channels)):
        for _ in range(layers_per_block + 1):
            context = skips.pop()
            adapters.append(ZeroSFT(context, state))
            state = channels
        if level < len(block_out_channels) - 1:
            adapters.append(ZeroCrossAttn(channels, context))
    return nn.ModuleList(reversed(adapters))


def skip_channels(block_out_channels: tuple[int, ...], layers_per_block: int) -> list[int]:
    """Channels of the encoder's skips, and of the control features, in the order they are made."""
    levels = [[channels] * layers_per_block for channels in block_out_channels]
    downsampled = [[channels] for channels in block_out_channels[:-1]] + [[]]
    pairs = zip(levels, downsampled, strict=True)
    return [block_out_channels[0], *itertools.chain.from_iterable(level + down for level, down in pairs)]
