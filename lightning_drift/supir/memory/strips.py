"""The autoencoder in little memory: every layer runs piece by piece, with the statistics of the whole.

A feature map is held whole, but nothing larger than one square of it is in flight: group normalisation,
activation, nearest upsampling and convolution are fused per square, which reads the one-pixel halo it needs.
Group statistics and the mid block's attention are global. So the result is that of the untiled network up to
rounding, at borders too.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

QUERIES = 4096
"""Queries of the mid attention at a time; each softmax still runs over all keys."""


class StripRunner:
    """Runs diffusers' encoder and decoder of an autoencoder piece by piece.

    Args:
        tile: Edge of the squares, in pixels of each layer's own resolution.
        store: Device that holds whole feature maps; None is the device of the input.
    """

    def __init__(self, tile: int, store: torch.device | None = None) -> None:
        self.tile = tile
        self.store = store

    def encode(self, encoder: Any, image: Tensor) -> Tensor:
        """Output of the encoder's last convolution [N, 8, h, w] for [N, 3, H, W]."""
        hidden = self._conv(encoder.conv_in, self._stored(image))
        for block in encoder.down_blocks:
            for resnet in block.resnets:
                hidden = self._resnet(resnet, hidden)
            if block.downsamplers is not None:
                hidden = self._conv(block.downsamplers[0].conv, hidden)
        hidden = self._mid(encoder.mid_block, hidden)
        return self._conv(encoder.conv_out, hidden, encoder.conv_norm_out).to(image.device)

    def decode(self, decoder: Any, latent: Tensor) -> Tensor:
        """Picture [N, 3, 8h, 8w] for the decoder's input [N, 4, h, w]."""
        hidden = self._conv(decoder.conv_in, self._stored(latent))
        hidden = self._mid(decoder.mid_block, hidden)
        for block in decoder.up_blocks:
            for resnet in block.resnets:
                hidden = self._resnet(resnet, hidden)
            if block.upsamplers is not None:
                hidden = self._conv(block.upsamplers[0].conv, hidden, upsample=True)
        return self._conv(decoder.conv_out, hidden, decoder.conv_norm_out).to(latent.device)

    def _stored(self, tensor: Tensor) -> Tensor:
        return tensor if self.store is None else tensor.to(self.store)

    def _resnet(self, block: Any, x: Tensor) -> Tensor:
        hidden = self._conv(block.conv1, x, block.norm1)
        hidden = self._conv(block.conv2, hidden, block.norm2)
        if block.conv_shortcut is None:
            return hidden.add_(x)
        return self._conv(block.conv_shortcut, x, add_to=hidden)

    def _mid(self, block: Any, x: Tensor) -> Tensor:
        x = self._resnet(block.resnets[0], x)
        x = self._attention(block.attentions[0], x)
        return self._resnet(block.resnets[1], x)

    def _attention(self, attention: Any, x: Tensor) -> Tensor:
        device = attention.to_q.weight.device
        tokens = attention.group_norm(x.to(device)).flatten(2).transpose(1, 2)
        keys, values = attention.to_k(tokens), attention.to_v(tokens)
        parts = [
            attention.to_out[0](F.scaled_dot_product_attention(attention.to_q(part), keys, values))
            for part in tokens.split(QUERIES, dim=1)
        ]
        mixed = torch.cat(parts, dim=1).transpose(1, 2).reshape(x.shape)
        return mixed.to(x.device) + x

    def _conv(
        self,
        conv: nn.Conv2d,
        x: Tensor,
        norm: nn.GroupNorm | None = None,
        upsample: bool = False,
        add_to: Tensor | None = None,
    ) -> Tensor:
        """``conv(upsample(silu(norm(x))))`` square by square; `add_to` is a map it is added to in place."""
        device = conv.weight.device
        factor = 2 if upsample else 1
        (kernel, _), (stride, _), padding = conv.kernel_size, conv.stride, int(conv.padding[0])
        height, width = x.shape[-2] * factor, x.shape[-1] * factor
        affine = None if norm is None else _group_affine(norm, x, self.tile)
        out = add_to
        if out is None:
            shape = (x.shape[0], conv.out_channels, height // stride, width // stride)
            out = torch.empty(shape, dtype=x.dtype, device=x.device)
        for top, bottom in _pieces(out.shape[-2], self.tile):
            for left, right in _pieces(out.shape[-1], self.tile):
                # The input this square needs, in upsampled coordinates; what lies outside the map is zero.
                y0, y1 = top * stride - padding, (bottom - 1) * stride - padding + kernel
                x0, x1 = left * stride - padding, (right - 1) * stride - padding + kernel
                inside = (max(y0, 0), min(y1, height), max(x0, 0), min(x1, width))
                piece = _read(x, inside, factor).to(device)
                if affine is not None:
                    scale, shift = affine
                    piece = F.silu((piece.float() * scale + shift).to(piece.dtype))
                if factor == 2:
                    piece = _upsample(piece, inside)
                piece = F.pad(piece, (inside[2] - x0, x1 - inside[3], inside[0] - y0, y1 - inside[1]))
                result = F.conv2d(piece, conv.weight, conv.bias, stride=stride).to(out.device)
                target = out[..., top:bottom, left:right]
                target.copy_(result) if add_to is None else target.add_(result)
        return out


def _pieces(length: int, tile: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, tile):
        yield start, min(start + tile, length)


def _read(x: Tensor, inside: tuple[int, int, int, int], factor: int) -> Tensor:
    y0, y1, x0, x1 = inside
    return x[..., y0 // factor : -(-y1 // factor), x0 // factor : -(-x1 // factor)]


def _upsample(piece: Tensor, inside: tuple[int, int, int, int]) -> Tensor:
    y0, y1, x0, x1 = inside
    doubled = F.interpolate(piece, scale_factor=2.0, mode="nearest")
    y, x = y0 % 2, x0 % 2
    return doubled[..., y : y + y1 - y0, x : x + x1 - x0]


def _group_affine(norm: nn.GroupNorm, x: Tensor, tile: int) -> tuple[Tensor, Tensor]:
    """Scale and shift [N, C, 1, 1] that normalise `x` by the true statistics of its groups.

    Pieces' means and variances are joined by Chan et al. 1979: the within-piece variance plus that of the
    means.
    """
    device = norm.weight.device
    means, variances, shares = [], [], []
    for top, bottom in _pieces(x.shape[-2], tile):
        piece = x[..., top:bottom, :].to(device).float().reshape(x.shape[0], norm.num_groups, -1)
        variance, mean = torch.var_mean(piece, dim=2, correction=0)
        means.append(mean)
        variances.append(variance)
        shares.append((bottom - top) / x.shape[-2])
    share = torch.tensor(shares, device=device)[:, None, None]
    mean = (torch.stack(means) * share).sum(0)
    variance = ((torch.stack(variances) + (torch.stack(means) - mean) ** 2) * share).sum(0)
    repeat = x.shape[1] // norm.num_groups
    deviation = (variance + norm.eps).rsqrt().repeat_interleave(repeat, dim=1)
    scale = deviation * norm.weight.float()
    shift = norm.bias.float() - mean.repeat_interleave(repeat, dim=1) * scale
    return scale[..., None, None], shift[..., None, None]
