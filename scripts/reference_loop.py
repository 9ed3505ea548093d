"""The training of diffusers' ``train_dreambooth.py`` as one plain process, for the benchmark to compare with.

It is the loop of that script with ``--train_text_encoder``, and with ``--use_8bit_adam`` where 8 bits are
asked for: each photo read and encoded anew for every step, gradients zeroed and kept, the loss read and
logged at every step, and the pipeline written at the end. It leaves out accelerate, whose import and
wrappers would take it some time more, and its own checkpoints. On a GPU it computes in float16 mixed
precision, as the essay ran it.

    python scripts/reference_loop.py --pipeline FOLDER --photos FOLDER --steps 300 --out FOLDER

The last line printed is JSON: the median seconds of a step, and the peak of the process's or the device's
memory in GiB.
"""

import argparse
import json
import resource
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
from PIL import Image
from PIL.ImageOps import exif_transpose
from transformers import AutoTokenizer, CLIPTextModel


def photo(path: Path, side: int) -> torch.Tensor:
    """A photo as the script's transforms give it, [1, 3, side, side] in [-1, 1]; cropped at the centre."""
    image = exif_transpose(Image.open(path)).convert("RGB")
    scale = side / min(image.size)
    width, height = (max(side, round(length * scale)) for length in image.size)
    image = image.resize((width, height), Image.Resampling.BILINEAR)
    left, top = (width - side) // 2, (height - side) // 2
    pixels = np.asarray(image.crop((left, top, left + side, top + side)))
    return torch.from_numpy(pixels.copy()).permute(2, 0, 1)[None].float() / 127.5 - 1


def clock(device: torch.device) -> float:
    """Seconds, after the device has finished what it was given."""
    if device.type == "cuda":
        torch.cuda.synchronize()
    return time.perf_counter()


def peak_memory(device: torch.device) -> float:
    """GiB at the peak: tensors on a GPU, else the whole process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (2**30 if sys.platform == "darwin" else 2**20)


def warm_median(times: list[float]) -> float:
    """The median step, without the first few."""
    return statistics.median(times[min(5, len(times) // 2) :])


def train(options: argparse.Namespace) -> list[float]:
    """Train, save, and return the seconds of each step."""
    torch.manual_seed(0)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    half = device.type == "cuda"
    folder, dtype = options.pipeline, torch.float16 if half else torch.float32
    tokenizer = AutoTokenizer.from_pretrained(folder, subfolder="tokenizer", use_fast=False)
    scheduler = DDPMScheduler.from_pretrained(folder, subfolder="scheduler")
    text_encoder = CLIPTextModel.from_pretrained(folder, subfolder="text_encoder", dtype=torch.float32).to(
        device
    )
    vae = AutoencoderKL.from_pretrained(folder, subfolder="vae").to(device, dtype).requires_grad_(False)
    unet = UNet2DConditionModel.from_pretrained(folder, subfolder="unet").to(device)
    unet.train()
    text_encoder.train()
    parameters = [*unet.parameters(), *text_encoder.parameters()]
    if options.eight_bit:
        import bitsandbytes

        optimizer: torch.optim.Optimizer = bitsandbytes.optim.AdamW8bit(
            parameters, lr=2e-6, weight_decay=1e-2
        )
    else:
        optimizer = torch.optim.AdamW(parameters, lr=2e-6, weight_decay=1e-2)
    scaler = torch.amp.GradScaler(device.type, enabled=half)
    photos = sorted(options.photos.iterdir())
    ids = tokenizer(
        options.prompt, padding="max_length", max_length=tokenizer.model_max_length, return_tensors="pt"
    ).input_ids.to(device)
    writer = None
    if options.out is not None:
        from torch.utils.tensorboard import SummaryWriter

        writer = SummaryWriter(options.out / "logs")
    times = []
    for step in range(options.steps):
        start = clock(device)
        pixels = photo(photos[step % len(photos)], options.side).to(device, dtype)
        latents = vae.encode(pixels).latent_dist.sample() * vae.config.scaling_factor
        noise = torch.randn_like(latents)
        timesteps = torch.randint(scheduler.config.num_train_timesteps, (1,), device=device)
        noisy = scheduler.add_noise(latents, noise, timesteps)
        with torch.autocast(device.type, torch.float16, enabled=half):
            condition = text_encoder(ids, return_dict=False)[0]
            prediction = unet(noisy, timesteps, condition, return_dict=False)[0]
        loss = F.mse_loss(prediction.float(), noise.float())
        scaler.scale(loss).backward()
        scaler.unscale_(optimizer)
        torch.nn.utils.clip_grad_norm_(parameters, 1.0)
        scaler.step(optimizer)
        scaler.update()
        optimizer.zero_grad(set_to_none=False)
        value = loss.detach().item()
        if writer is not None:
            writer.add_scalar("loss", value, step)
            writer.add_scalar("lr", optimizer.param_groups[0]["lr"], step)
        times.append(clock(device) - start)
    if writer is not None:
        writer.close()
        StableDiffusionPipeline.from_pretrained(
            folder, unet=unet, text_encoder=text_encoder, safety_checker=None, feature_extractor=None
        ).save_pretrained(options.out)
    return times


def arguments(argv: Sequence[str] | None = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--pipeline", type=Path, required=True, help="a diffusers folder")
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--prompt", default="a photo of sks person")
    parser.add_argument("--side", type=int, default=512, help="pixels")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--eight-bit", action="store_true", help="bitsandbytes' AdamW8bit instead of AdamW")
    parser.add_argument("--out", type=Path, help="where to log, and to write the pipeline")
    return parser.parse_args(argv)


def main() -> None:
    options = arguments()
    times = train(options)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    print(json.dumps({"seconds": warm_median(times), "peak": peak_memory(device)}))


if __name__ == "__main__":
    main()
