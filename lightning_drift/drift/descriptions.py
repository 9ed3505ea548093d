"""What each logged measure is, in a sentence: for pages that show them."""

from dataclasses import dataclass

from lightning_drift.drift.measures.noise_levels import level_tag
from lightning_drift.drift.verdict import DECIDING, WITH_MODEL


@dataclass(frozen=True)
class Description:
    """A logged number in words.

    Attributes:
        tag: Its TensorBoard tag.
        title: What it is called.
        about: What it says, in a sentence or two.
        thresholds: Fields of `Thresholds` that the verdict compares it with.
        beside: The tag of another number, drawn dashed in the same chart; empty for none.
    """

    tag: str
    title: str
    about: str
    thresholds: tuple[str, ...] = ()
    beside: str = ""

    @property
    def decides(self) -> bool:
        """Whether the verdict depends on it, or it is the verdict."""
        return self.tag.removeprefix("drift/") in ("position", *DECIDING, *WITH_MODEL)


_LEVELS = {0.25: "texture", 0.35: "detail", 0.55: "form", 0.75: "composition"}
"""What the noise leaves to be found at the noise levels of the loss, roughly."""

DESCRIPTIONS = (
    Description(
        "drift/position",
        "position",
        "At 25 dreaming begins, at 50 forgetting; at 75 language is lost. A broken model has none.",
    ),
    Description(
        "drift/language",
        "language",
        "How much prompts still decide: adherence and retrieval joined; base 1.",
        ("language_keep", "language_lost"),
    ),
    Description(
        "drift/drift_prompt",
        "drift in prompts",
        "How far pictures moved from the base's; 1 is as far as to another prompt's picture.",
        ("drift_prompt",),
    ),
    Description("drift/tilt", "tilt", "Change of the composition; 1 is as much as another seed.", ("tilt",)),
    Description(
        "drift/spread",
        "spread",
        "How far prompts lie apart; base 1, at 0 all prompts give one picture.",
        ("spread",),
    ),
    Description(
        "drift/pull",
        "pull",
        "Closeness to the photos; 0 the base, 1 the photos among themselves.",
        ("pull",),
    ),
    Description("drift/aim", "aim", "Whether the change points at the photos; 1 straight at them.", ("aim",)),
    Description("drift/copy", "copy", "Share of pictures that nearly repeat a photo.", ("copy",)),
    Description(
        "drift/likeness",
        "likeness",
        "How like some photo the pictures are; 0 the base, 1 a copy.",
        ("likeness",),
    ),
    Description(
        "drift/photo_loss",
        "loss on the photos",
        "The denoiser's error on the training photos; base 1. A fit lowers it, damage does not.",
        ("photo_loss",),
    ),
    Description(
        "drift/adherence",
        "adherence",
        "How much better a picture fits its own prompt than the others; base 1.",
    ),
    Description("drift/retrieval", "retrieval", "How often a picture is recognised by its prompt; base 1."),
    Description("drift/drift", "drift", "Distance to the base's picture; 1 is as far as to another seed's."),
    Description("drift/coherence", "coherence", "Whether all pictures change in the same direction; 1 all."),
    Description("drift/colour", "colour", "Shift of the colours; 1 is as much as another seed."),
    Description("drift/delta_e", "delta E", "The same shift in CIELAB; 2.3 is just noticeable."),
    Description(
        "drift/palette_pull",
        "palette pull",
        "How far the colours moved to those of the photos; 0 the base, 1 there.",
    ),
    Description(
        "drift/diversity",
        "diversity",
        "How far seeds of one prompt lie apart; base 1. It rises before it falls.",
    ),
    Description(
        "drift/vendi", "Vendi score", "The effective number of different pictures; base 1, 0 a single one."
    ),
    Description(
        "drift/clip_t",
        "CLIP-T",
        "Plain similarity of picture and prompt; it can rise while language dies.",
    ),
    Description(
        "drift/loss_trained",
        "loss curve",
        "The denoiser's error on a few photos, against the base's; dashed, if any, on held-out ones. Where "
        "the dashed curve leaves the other, the photos themselves are learnt.",
        beside="drift/loss_held_out",
    ),
    *(
        Description(
            f"drift/{level_tag('trained', level)}",
            f"loss curve, {what}",
            f"The same at one noise level, {level:.0%} of the timesteps.",
            beside=f"drift/{level_tag('held_out', level)}",
        )
        for level, what in _LEVELS.items()
    ),
    Description(
        "drift/memorising",
        "memorising",
        "The loss on held-out photos over that on trained ones; base 1. What lies above is learnt by heart.",
    ),
    Description(
        "drift/held_out_loss",
        "loss on held-out photos",
        "The denoiser's error on all held-out photos; base 1.",
    ),
    Description(
        "drift/departure",
        "departure, photos",
        "How far the denoiser's prediction on the photos has moved from the base's; base 0.",
    ),
    Description(
        "drift/departure_language",
        "departure, language",
        "The same on the base's own pictures with the language prompts, which no photo has: what else moved.",
    ),
    Description(
        "drift/prompt_force",
        "force of the instance prompt",
        "What the instance prompt asks of pure noise; base 1. Large models show by it what they know by "
        "heart; the pocket mostly does not.",
    ),
    Description(
        "drift/texture",
        "fine texture",
        "How much pictures change from pixel to pixel; base 1. Above it they are grainy, below it smeared.",
    ),
    Description(
        "drift/updates",
        "update norms",
        "How much a sampling step changes in the latents, squared; base 1. Not known where the base's "
        "pictures came from disk.",
    ),
    Description("drift/text", "text encoder", "Similarity of the prompts' embeddings to the base's; base 1."),
    Description(
        "drift/text_structure",
        "text structure",
        "Whether the prompts' embeddings still stand to one another as in the base; base 1.",
    ),
    Description("drift/guidance", "guidance", "What a prompt changes in the denoiser; base 1, not monotone."),
    Description(
        "drift/sensitivity",
        "sensitivity",
        "What another prompt changes in the denoiser; base 1, not monotone.",
    ),
    Description(
        "drift/dc_accuracy",
        "classifier accuracy",
        "How often the denoiser recognises a picture's prompt; noisy.",
    ),
    Description("drift/weights/unet", "weights, UNet", "Relative change of all weights: the dose."),
    Description("drift/weights/text_encoder", "weights, text encoder", "Relative change of all weights."),
    Description("train/loss", "training loss", "It says nothing about the zone."),
)
"""In the order in which a page shows them."""
