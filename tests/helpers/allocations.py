"""What a training step really allocates on the CPU."""

import gc
from dataclasses import replace
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

from lightning_drift.forecast.autocast import CudaAutocast
from lightning_drift.forecast.rehearsal import Scene, trained_over, training_step
from lightning_drift.forecast.state import storage_bytes, tensors_in
from lightning_drift.stable_diffusion.loading import StableDiffusion


def allocated(module: Any, model: StableDiffusion, scene: Scene) -> int:
    """Bytes of tensors at the peak of a step on the CPU: the second one, as the allocator tells it."""
    twin, optimizer = trained_over(module, model, scene)
    replay = CudaAutocast(scene.device)

    def step() -> None:
        training_step(twin, optimizer, scene, scene.forward_context, replay, replay.forget)
        gc.collect()

    step()
    remainders = [tensor for p in twin.parameters() for tensor in tensors_in(vars(p))]
    held = storage_bytes([*twin.parameters(), *twin.buffers(), *remainders, *tensors_in(optimizer.state)])
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        step()
    live = most = 0
    events = (e for e in profiled.profiler.kineto_results.events() if e.name() == "[memory]")
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        most = max(most, live)
    return held + most


def random_weights(base: StableDiffusion) -> StableDiffusion:
    """A model without weights, with random ones on the CPU."""
    parts: dict[str, Any] = {}
    for name in ("unet", "text_encoder", "vae"):
        part = parts[name] = getattr(base, name).to_empty(device="cpu")
        for number, parameter in enumerate(part.parameters()):
            with torch.no_grad():
                parameter.normal_(0, 0.02, generator=torch.Generator().manual_seed(number))
    positions = torch.arange(parts["text_encoder"].config.max_position_embeddings)
    parts["text_encoder"].embeddings.position_ids = positions.expand((1, -1))
    return replace(base, **parts)
