"""DreamBooth: the full fine-tune of UNet and text encoder, and only the method."""

from copy import copy
from typing import Any, Literal

import torch
import torch.nn.functional as F
from lightning.pytorch import Callback, LightningModule
from torch import Tensor
from torch.optim import Optimizer

from lightning_drift.common.errors import UserError, notice
from lightning_drift.common.modules import without_autocast
from lightning_drift.common.numbers import whole
from lightning_drift.common.out_of_memory import Exhausted, Remedy, during
from lightning_drift.common.prompt_lists import check_text
from lightning_drift.common.rng import generator
from lightning_drift.fit.compiled import compiled
from lightning_drift.fit.learning_rate import check_rate
from lightning_drift.fit.less_memory import less_for_a_step
from lightning_drift.fit.memory import MEMORY_MODES
from lightning_drift.fit.optimizer import group_settings, make_optimizer, set_groups
from lightning_drift.fit.planning import start
from lightning_drift.fit.recipe import check_checkpoint, recipe_changes, recipe_of
from lightning_drift.fit.resume import check_optimizer_state
from lightning_drift.fit.split_optimizer import SplitOptimizer, check_split
from lightning_drift.fit.step_graph import Record, StepGraph, why_eager
from lightning_drift.fit.step_log import LogSteps
from lightning_drift.fit.step_watch import StepWatch
from lightning_drift.fit.trainable_model import (
    check_text_encoder_steps,
    check_trainer,
    make_trainable,
    prompt_ids,
    training_schedule,
)
from lightning_drift.fit.weight_change import WeightChange
from lightning_drift.stable_diffusion.autoencoder import vae_factor
from lightning_drift.stable_diffusion.loading import (
    StableDiffusion,
    empty_opened,
    load_opened,
    open_pipeline,
)
from lightning_drift.stable_diffusion.opened_pipeline import OpenedPipeline
from lightning_drift.stable_diffusion.sampling import native_size
from lightning_drift.weights.split_weights import LARGEST


class DreamBooth(LightningModule):
    """Full DreamBooth fine-tune of a Stable Diffusion pipeline on a few photos of one subject.

    Trains every weight of the UNet and of the text encoder on the photos with one fixed prompt. There is no
    prior preservation and no LoRA: nothing pulls the model back, so it drifts. The weights are float32
    masters whatever the Trainer's precision; a half-precision base is loaded as float32. Not supported:
    captions per image, SDXL and SD 2.x, inpainting models.

    Each training step draws, for each sample, posterior noise, target noise and timestep from an address made
    of the run's seed and the sample's position, so a resumed run repeats the unbroken one.

    Args:
        pipeline: The base model: a hub id, a diffusers folder, a single ``.safetensors`` or ``.ckpt`` file,
            or ``pocket`` for the embedded model.
        instance_prompt: The prompt of every photo; it holds the identifier token (``sks``).
        learning_rate: Constant learning rate, without warmup; above 0 and up to 1, which optimizers that find
            their own step size take (Prodigy, D-Adaptation).
        train_text_encoder: Train the text encoder too, as the recipe does; false leaves it frozen, which
            makes the corridor several times wider.
        train_text_encoder_steps: The text encoder is trained in the first so many optimizer steps and stands
            still afterwards, without gradient, weight decay or momentum; null trains it to the end. Other
            programs call it the step at which text-encoder training stops.
        text_encoder_learning_rate: The text encoder's own rate; null means the same as the UNet's.
        optimizer: Optimizer class, for example bitsandbytes.optim.AdamW8bit.
        optimizer_args: Further arguments of the optimizer, such as ``{weight_decay: 0.01}``; null for its
            defaults.
        pad_tokens: Pad the prompt to the tokenizer's maximum (77 for SD), as diffusers does since November
            2022, or not at all, as the first scripts did.
        latents: "cached" computes each photo's posterior once and samples it anew each step (exact for fixed
            crops, and cheaper); "reencode" runs the autoencoder every step, as random crops need.
        memory: What is kept on the device, and what is made again instead; all modes compute the same, each
            in less memory than the one before it. "full" keeps float32 weights. "split" keeps them as the
            float16 numbers that mixed precision computes with, and 16-bit remainders; gradients are half as
            large. "deferred" also makes the weight gradients of deep layers twice instead of holding them.
            "recompute" defers more of them, and makes norms and activation functions again in the backward
            pass. "paged" also leaves the optimizer's states in the computer's memory. All but "full" need
            ``trainer.precision`` 16-mixed on a GPU, one device and ``trainer.accumulate_grad_batches`` 1.
            Runs go from one mode to another. "auto" takes the first whose forecast fits the free memory of
            the GPU, and says which and why; on a CPU that is "full".
        cuda_graph: On a GPU, replay forward and backward of the step as one CUDA graph, which computes the
            same with one launch (`StepGraph`); false launches kernel by kernel. Where it cannot be (memory
            modes that make parts of a step again, several batches or devices), one line says why.
        torch_compile: Compile the UNet's training step with ``torch.compile``; it rounds otherwise than the
            uncompiled one, so the recipe records it. Takes minutes at the start and needs a C++ compiler.
        gradient_checkpointing: Recompute activations in the backward pass; saves memory only at batch sizes
            above 1.
        weight_change_every_n_steps: How often to log the relative weight change of each block; 0 for never.
        log_every_n_steps: How often to log loss, gradient norm, loss scale and learning rate.
        base: Where to find the base pipeline if ``pipeline`` is a checkpoint of an earlier fit.
        seed: The run's seed (the command line takes it from ``seed_everything``).
    """

    def __init__(
        self,
        pipeline: str = "pocket",
        instance_prompt: str = "a photo of sks person",
        learning_rate: float = 2e-6,
        train_text_encoder: bool = True,
        train_text_encoder_steps: int | None = None,
        text_encoder_learning_rate: float | None = None,
        optimizer: type[Optimizer] = torch.optim.AdamW,
        optimizer_args: dict[str, Any] | None = None,
        pad_tokens: Literal["maximum", "none"] = "maximum",
        latents: Literal["cached", "reencode"] = "cached",
        memory: Literal["auto", "full", "split", "deferred", "recompute", "paged"] = "full",
        cuda_graph: bool = True,
        torch_compile: bool = False,
        gradient_checkpointing: bool = False,
        weight_change_every_n_steps: int = 50,
        log_every_n_steps: int = 10,
        base: str | None = None,
        seed: int = 0,
    ) -> None:
        super().__init__()
        for name, rate in (
            ("learning_rate", learning_rate),
            ("text_encoder_learning_rate", text_encoder_learning_rate),
        ):
            if rate is not None:
                check_rate(rate, f"model.{name}")
        check_text_encoder_steps(train_text_encoder_steps, train_text_encoder)
        check_text(instance_prompt, "model.instance_prompt")
        whole(log_every_n_steps, "model.log_every_n_steps", 1)
        whole(weight_change_every_n_steps, "model.weight_change_every_n_steps", 0)
        self.pipeline = pipeline
        self.instance_prompt = instance_prompt
        self.learning_rate = learning_rate
        self.train_text_encoder = train_text_encoder
        self.train_text_encoder_steps = train_text_encoder_steps
        self.text_encoder_learning_rate = text_encoder_learning_rate
        self.optimizer = optimizer
        self.optimizer_args = optimizer_args or {}
        self.pad_tokens = pad_tokens
        self.latents_mode = latents
        self.memory: str = memory
        self.cuda_graph = cuda_graph
        self.torch_compile = torch_compile
        self.gradient_checkpointing = gradient_checkpointing
        self.weight_change_every_n_steps = weight_change_every_n_steps
        self.log_every_n_steps = log_every_n_steps
        self.base = base
        self.seed = seed
        self.stable_diffusion: StableDiffusion | None = None
        self.resumed_changes: dict[str, tuple[Any, Any]] = {}  # of the recipe: what it was, what it is
        self.watch = StepWatch()
        self._frozen_condition: Tensor | None = None
        self._graph: StepGraph | None = None
        self._compiled: Any = None  # the UNet's forward, no module, so that the state dict stays as it is
        self._opened: OpenedPipeline | None = None  # between setup and configure_model

    # -- loading ----------------------------------------------------------------------------------------

    def setup(self, stage: str) -> None:
        """Refuse what the float32 weights cannot be trained with, before they are loaded.

        Raises:
            UserError: The data hold no photos, or the Trainer would turn the weights to another precision.
        """
        check_trainer(self, self.trainer, stage)
        if stage == "fit" and self.stable_diffusion is None:
            self._opened = open_pipeline(self.pipeline, base=self.base)
            start(self, self.trainer, empty_opened(self._opened))
        elif self.memory == "auto":
            self.memory = "full"

    def configure_model(self) -> None:
        """Load the base pipeline, once.

        Raises:
            UserError: If it cannot be loaded or a part that is to be trained has no trainable parameter.
        """
        if self.stable_diffusion is None:
            opened, self._opened = self._opened or open_pipeline(self.pipeline, base=self.base), None
            self._take(load_opened(opened))

    def _take(self, model: StableDiffusion) -> None:
        self.stable_diffusion = model
        # UNet and text encoder are this module's weights; the autoencoder is a tool and stays out of its
        # state.
        self.unet, self.text_encoder = model.unet, model.text_encoder
        make_trainable(self, model)
        self._compiled = compiled(self.unet.forward) if self.torch_compile else None
        self.scheduler = training_schedule(model, self.pipeline)
        self.input_ids = prompt_ids(model.tokenizer, self.instance_prompt, self.pad_tokens)
        self._weight_change = WeightChange(self.trained()) if self.weight_change_every_n_steps else None

    def over(self, model: StableDiffusion, trainer: Any) -> "DreamBooth":
        """The same method over another model and Trainer, such as a model without weights that is rehearsed.

        Nothing is watched, and this module is not changed.
        """
        twin = copy(self)
        twin._modules = {}
        twin._trainer = trainer
        twin.watch = StepWatch(model.unet.device)
        twin._frozen_condition = twin._graph = None
        twin.torch_compile = False
        twin.weight_change_every_n_steps = 0
        twin._take(model)
        return twin.to(model.unet.device)

    def trained(self) -> dict[str, torch.nn.Module]:
        """The modules that are trained in some step, by name."""
        modules: dict[str, torch.nn.Module] = {"unet": self.unet}
        if self.train_text_encoder:
            modules["text_encoder"] = self.text_encoder
        return modules

    @property
    def resolution(self) -> int:
        """The side in pixels that the base model was trained at."""
        assert self.stable_diffusion is not None, "configure_model comes first"
        return native_size(self.stable_diffusion)

    # -- the training step ------------------------------------------------------------------------------

    def on_fit_start(self) -> None:
        """Compute the photos' posteriors, if they are cached; the autoencoder then rests on the CPU."""
        assert self.stable_diffusion is not None
        for module in self.trained().values():
            module.train()
        if self.device.type == "cpu" and "16" in str(self.trainer.precision) and self.loss_scaler is None:
            notice(
                f"trainer.precision {self.trainer.precision} without a GPU computes in bfloat16 without a "
                "loss scaler, which is not the recipe; a CPU is fastest and exact with 32-true"
            )
        self.input_ids = self.input_ids.to(self.device)
        if self.latents_mode == "cached":
            self.trainer.datamodule.encode(self.stable_diffusion.vae, self.device)  # type: ignore[attr-defined]
            self.stable_diffusion.vae.to("cpu")
        else:
            self.stable_diffusion.vae.to(self.device)
        self.watch = StepWatch(self.device)

    def on_train_start(self) -> None:
        """Apply this run's optimizer settings, which a checkpoint's optimizer state would else override."""
        set_groups(self.trainer.optimizers[0], self._group_settings)
        self._graph = None
        if self.cuda_graph and self.device.type == "cuda":
            if why := why_eager(self, self.trainer):
                notice(f"training steps are not replayed as a CUDA graph: {why}")
            else:
                self._graph = self.step_graph()

    def step_graph(self, record: Record | None = None) -> StepGraph:
        """Forward and backward of this module's step, to be replayed; ``record`` as for `StepGraph`."""
        scaler = self.loss_scaler
        parameters = [p for module in self.trained().values() for p in module.parameters()]
        return StepGraph(
            self.loss, scaler.scale if scaler is not None else lambda loss: loss, parameters, record
        )

    def release_graph(self) -> None:
        """Give the memory of the step's graph to what is computed between steps."""
        if self._graph is not None:
            self._graph.release()

    @property
    def text_encoder_trains(self) -> bool:
        """Whether the present step trains the text encoder: a function of the number of steps taken."""
        stop = self.train_text_encoder_steps
        return self.train_text_encoder and (stop is None or self.global_step < stop)

    def _stop_text_encoder(self) -> None:
        """Let the text encoder rest from its stop on; a step's graph is then captured again without it.

        Its weights get no gradient any more, so no optimizer touches them, and what it keeps of them is saved
        as it was.
        """
        if self.text_encoder.training and not self.text_encoder_trains:
            self.text_encoder.requires_grad_(False).eval()  # type: ignore[no-untyped-call]
            self.release_graph()

    def draw(self, position: int, shape: tuple[int, ...]) -> tuple[Tensor, Tensor, Tensor]:
        """Everything random about one sample, as a function of the seed and its position; drawn on the CPU.

        Returns:
            Posterior noise and target noise of ``shape`` [C, h, w], unit normal; timestep [], uniform over
            the training timesteps.
        """
        source = generator(self.seed, "sample", position)
        posterior_noise = torch.randn(shape, generator=source)
        noise = torch.randn(shape, generator=source)
        timestep = torch.randint(self.scheduler.config.num_train_timesteps, (), generator=source)
        return posterior_noise, noise, timestep

    def training_step(self, batch: dict[str, Any], batch_idx: int) -> Tensor:
        """One micro-batch: latents, noise, UNet, mean squared error.

        The batch holds ``position`` (a list of integers) and either ``mean`` and ``std`` [B, C, h, w] of the
        photos' posteriors or ``pixel_values`` [B, 3, H, W] in [-1, 1].
        """
        with during(self._this_step, self._less):
            self._stop_text_encoder()
            shape = self._latent_shape(batch)
            draws = [self.draw(position, shape) for position in batch["position"]]
            posterior_noise, noise, timesteps = (
                self._sent(torch.stack(column)) for column in zip(*draws, strict=True)
            )
            inputs = self.latents(batch, posterior_noise), noise, timesteps
            loss = None if self._graph is None else self._graph(*inputs)
            if loss is None:
                loss = self.loss(*inputs)
            self.watch.see_loss(loss, self.global_step + 1)
            return loss

    def _sent(self, tensor: Tensor) -> Tensor:
        """A tensor on its way to the device; from pinned memory, the CPU need not wait for it."""
        return (tensor.pin_memory() if self.device.type == "cuda" else tensor).to(
            self.device, non_blocking=True
        )

    def backward(self, loss: Tensor, *args: Any, **kwargs: Any) -> None:
        """Make the gradients, unless a graph has."""
        if self._graph is None or not self._graph.has_gradients:
            with during(self._this_step, self._less):
                super().backward(loss, *args, **kwargs)

    @property
    def _this_step(self) -> str:
        return f"training step {self.global_step + 1}"

    def _less(self, full: Exhausted) -> Remedy | None:
        return less_for_a_step(self, full)

    def _less_for_the_update(self, full: Exhausted) -> Remedy | None:
        return less_for_a_step(self, full, updating=True)

    def _latent_shape(self, batch: dict[str, Any]) -> tuple[int, ...]:
        if "mean" in batch:
            return tuple(batch["mean"].shape[1:])
        assert self.stable_diffusion is not None
        height, width = (
            side // vae_factor(self.stable_diffusion) for side in batch["pixel_values"].shape[-2:]
        )
        return self.stable_diffusion.vae.config.latent_channels, height, width

    def latents(self, batch: dict[str, Any], posterior_noise: Tensor) -> Tensor:
        """Scaled latents [B, C, h, w] in float32: a fresh sample of each photo's posterior."""
        assert self.stable_diffusion is not None
        if "mean" in batch:
            mean, std = batch["mean"], batch["std"]
        else:
            with torch.no_grad():
                posterior = self.stable_diffusion.vae.encode(batch["pixel_values"]).latent_dist
            mean, std = posterior.mean, posterior.std
        scaled: Tensor = (
            mean.float() + std.float() * posterior_noise
        ) * self.stable_diffusion.vae.config.scaling_factor
        return scaled

    def loss(self, latents: Tensor, noise: Tensor, timesteps: Tensor) -> Tensor:
        """The denoising loss of DDPM (Ho et al. 2020, eq. 14) in float32.

        The noisy latents are made in float32 on purpose: the reference script rounds the noise schedule to 16
        bits first, which makes the smallest noise levels wrong by up to 7 % (float16) or zero (bfloat16).

        Args:
            latents: Scaled latents, [B, C, h, w].
            noise: Unit normal noise of the same shape.
            timesteps: Integers in [0, training timesteps), [B].

        Returns:
            Mean squared error over all elements against the noise, or against the velocity (Salimans & Ho
            2022, appendix D) for a v-prediction model; a scalar.
        """
        with without_autocast(latents.device):
            noisy = self.scheduler.add_noise(latents, noise, timesteps)
            if self.scheduler.config.prediction_type == "v_prediction":
                target = self.scheduler.get_velocity(latents, noise, timesteps)
            else:
                target = noise
        condition = self.condition().expand(len(latents), -1, -1)
        denoise = self._compiled or self.unet
        prediction = denoise(noisy, timesteps, condition, return_dict=False)[0]
        loss: Tensor = F.mse_loss(prediction.float(), target.float())
        return loss

    def condition(self) -> Tensor:
        """Text-encoder states of the instance prompt, [1, tokens, width]; computed once where it rests."""
        if self._frozen_condition is not None:
            return self._frozen_condition
        states: Tensor = self.text_encoder(self.input_ids.to(self.text_encoder.device))[0]
        if not self.text_encoder_trains:
            self._frozen_condition = states
        return states

    # -- optimizer --------------------------------------------------------------------------------------

    def configure_optimizers(self) -> Optimizer:
        """One parameter group for the UNet and one for the text encoder.

        Raises:
            UserError: The optimizer does not take the arguments.
        """
        # An earlier fit of this module may have stopped it.
        self.text_encoder.requires_grad_(self.train_text_encoder)
        self._frozen_condition = None
        rates = {
            "unet": self.learning_rate,
            "text_encoder": self.text_encoder_learning_rate or self.learning_rate,
        }
        optimizer: Optimizer
        mode = MEMORY_MODES[self.memory]
        if mode.split:
            check_split(self.memory, self.optimizer, self.trainer, self.loss_scaler)
            optimizer = SplitOptimizer(self.optimizer, self.trained(), rates, self.optimizer_args, mode)
        else:
            parameters = {
                name: [p for p in module.parameters() if p.requires_grad]
                for name, module in self.trained().items()
            }
            scaled = self.loss_scaler is not None
            optimizer = make_optimizer(self.optimizer, parameters, rates, self.optimizer_args, scaled)
        self._group_settings = group_settings(optimizer)
        return optimizer

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        """Measure the global gradient norm over what the step trains, and clip to it where asked."""
        parameters = [p for group in optimizer.param_groups for p in group["params"]]
        if isinstance(optimizer, SplitOptimizer):
            norm = optimizer.total_norm(self.loss_scaler._get_scale_async())
            if gradient_clip_val:
                optimizer.clip(norm, gradient_clip_val)
        elif gradient_clip_val and gradient_clip_algorithm in (None, "norm"):
            # As `torch.nn.utils.clip_grad_norm_` does, but a CPU need not multiply by a coefficient of 1.
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if norm.device.type != "cpu" or not norm + 1e-6 <= gradient_clip_val:
                torch.nn.utils.clip_grads_with_norm_(parameters, gradient_clip_val, norm)
        else:
            norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
            if gradient_clip_val:
                self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)
        self.watch.see_grad_norm(norm, self.global_step + 1, can_be_skipped=self.loss_scaler is not None)

    def optimizer_step(self, *args: Any, **kwargs: Any) -> None:
        """Take the step and free its gradients.

        The Trainer frees them between the next forward and its backward; until then they would lie beside the
        activations, every grid and every save: 3.7 GiB for SD v1.5 (calculated).
        """
        with during(f"the optimizer's update in step {self.global_step + 1}", self._less_for_the_update):
            super().optimizer_step(*args, **kwargs)
        self.optimizers(use_pl_optimizer=False).zero_grad(set_to_none=True)  # type: ignore[union-attr]

    def optimizer_zero_grad(self, epoch: int, batch_idx: int, optimizer: Optimizer) -> None:
        """Nothing: `optimizer_step` frees the gradients."""

    @property
    def loss_scaler(self) -> Any:
        """The loss scaler of float16 training, if there is one."""
        return getattr(self._trainer and self._trainer.strategy.precision_plugin, "scaler", None)

    # -- watching ---------------------------------------------------------------------------------------

    def check_finite(self) -> None:
        """Stop the run if it has diverged.

        Raises:
            UserError: If a loss was not finite, or a gradient without a loss scaler to skip the step; it
                names the step, the learning rate and the last good checkpoint.
        """
        several = self.trainer.world_size > 1
        step = self.watch.first_bad_step(self.trainer.strategy if several else None)
        optimizer = self.trainer.optimizers[0] if self.trainer.optimizers else None
        if step is None and isinstance(optimizer, SplitOptimizer) and optimizer.overflowed():
            raise UserError(
                f"a weight has grown past {LARGEST:g}, which float16 does not hold, by step "
                f"{self.global_step}; resume from an earlier checkpoint with full, or a lower learning rate",
                "model.memory",
            )
        if step is None:
            return
        checkpoint = getattr(self.trainer.checkpoint_callback, "last_saved", None)
        where = (
            f"the last good checkpoint is {checkpoint}" if checkpoint else "no checkpoint had been saved yet"
        )
        raise UserError(
            f"the loss is not finite (NaN or inf) at step {step}, learning rate {self.learning_rate:g}; "
            f"{where}. "
            "Try a lower learning rate, gradient clipping (trainer.gradient_clip_val 1.0) or precision 32"
        )

    def configure_callbacks(self) -> list[Callback]:
        """Log steps through a callback, which comes before those that save (see `LogSteps`)."""
        return [LogSteps()]

    def weight_changes(self) -> dict[str, float]:
        """Relative change of each trained block against the base (`WeightChange`); empty if not watched."""
        return self._weight_change.measure(self.trained()) if self._weight_change else {}

    # -- checkpoints ------------------------------------------------------------------------------------

    def recipe(self) -> dict[str, Any]:
        """What decides this run's weights, in plain values; stored in every checkpoint and export."""
        return recipe_of(self, self._trainer)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add the recipe."""
        checkpoint["recipe"] = self.recipe()

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Check that a checkpoint fits this model before it is loaded, and note what differs from its recipe.

        Raises:
            UserError: If it is not a checkpoint of this trainer, keys or shapes differ, or this fit cannot go
                on with its optimizer state; it names them.
        """
        check_checkpoint(checkpoint, self.state_dict(), self.pipeline)
        if self.trainer.state.fn != "fit":
            return
        check_optimizer_state(checkpoint, self.recipe(), self.trained())
        self.resumed_changes = recipe_changes(checkpoint["recipe"], self.recipe())
        for key, (old, new) in self.resumed_changes.items():
            notice(f"resuming with another {key}: {old} when the checkpoint was saved, {new} now")

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        """Nothing to compute: a ``validate`` run only has its callbacks render the checkpoint."""
