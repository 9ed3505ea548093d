"""The measures by CLIP: language, distance from the base, collapse, and the way to the photos.

Pictures of the base and of the checkpoint come in matched pairs, one noise and one prompt, in the order of
``draws.keys``; embeddings are unit vectors of a frozen CLIP. Every function returns one number for the
pictures as they are and one for each bootstrap draw, shape (1 + draws,).
"""

import torch
from torch import Tensor
from torch.nn import functional

from lightning_drift.drift.measures.intervals import SeedDraws, against_base

MARGIN_FLOOR = 0.01
DISTANCE_FLOOR = 1e-3
PULL_FLOOR = 0.05
"""Below these a statistic of the base says nothing, and is not divided by (see `against_base`)."""

EXACT = "donot_use_mm_for_euclid_dist"  # else cdist gives equal vectors a distance


def distances(vectors: Tensor) -> Tensor:
    """1 - cosine between all unit vectors (n, d), shape (n, n), exactly 0 on the diagonal."""
    vectors = vectors.double()
    return torch.cdist(vectors, vectors, compute_mode=EXACT).square() / 2


# -- language: does the prompt still decide the picture? ------------------------------------------------


def clip_t(draws: SeedDraws, pictures: Tensor, texts: Tensor) -> Tensor:
    """CLIP-T of DreamBooth (Ruiz et al., arXiv:2208.12242): mean cosine of picture and its own prompt.

    Args:
        draws: The seeds' weights.
        pictures: Shape (n, d).
        texts: Embeddings of ``draws.prompts``, shape (p, d).
    """
    own = (pictures.double() * texts.double()[draws.prompt]).sum(-1)
    return draws.mean(own)


def margin(draws: SeedDraws, pictures: Tensor, texts: Tensor) -> Tensor:
    """Mean cosine with the own prompt less that with the other prompts.

    What all prompts have in common cancels: the gap between CLIP's modalities, a tint of all pictures, the
    photos' subject itself. Arguments as in `clip_t`, for two prompts or more.
    """
    similarity = pictures.double() @ texts.double().T
    own = similarity.gather(1, draws.prompt[:, None])[:, 0]
    others = (similarity.sum(1) - own) / (len(texts) - 1)
    return draws.mean(own - others)


def accuracy(draws: SeedDraws, pictures: Tensor, texts: Tensor) -> Tensor:
    """Share of pictures that are nearer to their own prompt than to any other. Arguments as in `clip_t`."""
    similarity = pictures.double() @ texts.double().T
    return draws.mean((similarity.argmax(1) == draws.prompt).double())


def adherence(draws: SeedDraws, base: Tensor, now: Tensor, texts: Tensor) -> Tensor:
    """`margin` relative to the base's: 1 as obedient as the base, 0 prompts ignored.

    >>> draws = SeedDraws([("a", 0), ("a", 1), ("b", 0), ("b", 1)], draws=0)
    >>> texts = torch.eye(2)
    >>> base, ignored = texts[draws.prompt], texts[[0, 0, 0, 0]]
    >>> [adherence(draws, base, pictures, texts).item() for pictures in (base, ignored, base.flip(0))]
    [1.0, 0.0, -1.0]

    Args:
        draws: The seeds' weights.
        base: The base's pictures, shape (n, d).
        now: The checkpoint's, shape (n, d).
        texts: Embeddings of ``draws.prompts``, shape (p, d).
    """
    return against_base(margin(draws, now, texts), margin(draws, base, texts), MARGIN_FLOOR)


def retrieval(draws: SeedDraws, base: Tensor, now: Tensor, texts: Tensor) -> Tensor:
    """`accuracy` above chance relative to the base's: 1 as the base, 0 guessing. As in `adherence`."""
    chance = 1 / len(texts)
    above = accuracy(draws, now, texts) - chance
    return against_base(above, accuracy(draws, base, texts) - chance, floor=chance)


def language(adherence: Tensor, retrieval: Tensor) -> Tensor:
    """How much of the base's language is left: (adherence + max(retrieval, 0)) / 2."""
    return (adherence + retrieval.clamp(min=0)) / 2


# -- distance: how far from the same picture of the base? -----------------------------------------------


def matched_distance(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """Mean of 1 - cosine of matched pairs. Arguments of shape (n, d)."""
    return draws.mean((now.double() - base.double()).square().sum(1) / 2)


def drift(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """Distance of matched pairs in re-rolls: 1 is as different as another seed of the same prompt.

    After the matched noise of few-shot GAN adaptation (Ojha et al., CVPR 2021). Depends on how narrow the
    base is within a prompt; see `drift_prompt`.
    """
    return matched_distance(draws, base, now) / draws.pair_mean(distances(base)).clamp(min=DISTANCE_FLOOR)


def drift_prompt(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """Distance of matched pairs relative to that of the base's pictures of different prompts at one seed.

    1 is as different as another prompt; it transfers better between base models than `drift`.
    """
    between = draws.prompt_pair_mean(distances(base)).clamp(min=DISTANCE_FLOOR)
    return matched_distance(draws, base, now) / between


# -- collapse: does everything look alike? --------------------------------------------------------------


def prompt_distance(draws: SeedDraws, pictures: Tensor) -> Tensor:
    """Mean 1 - cosine between the prompts' mean directions, for two prompts or more."""
    one_hot = functional.one_hot(draws.prompt, len(draws.prompts)).double()
    weights = draws.weights[:, None] * one_hot.T[None]
    centres = functional.normalize(weights @ pictures.double(), dim=-1)
    count = len(draws.prompts)
    return torch.cdist(centres, centres, compute_mode=EXACT).square().sum((1, 2)) / 2 / (count * (count - 1))


def spread(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """`prompt_distance` relative to the base's: 1 as the base, 0 one picture whatever is asked."""
    return against_base(prompt_distance(draws, now), prompt_distance(draws, base), DISTANCE_FLOOR)


def diversity(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """Distance between seeds of one prompt relative to the base's. Explains only: it rises before it falls.

    DIV of DreamBooth with CLIP in the place of LPIPS.
    """
    return against_base(draws.pair_mean(distances(now)), draws.pair_mean(distances(base)), DISTANCE_FLOOR)


def vendi_score(draws: SeedDraws, pictures: Tensor) -> Tensor:
    """Effective number of distinct pictures over all prompts and seeds, 1 to n.

    exp of the entropy of the eigenvalues of the weighted Gram matrix (Friedman & Dieng, "The Vendi score",
    TMLR 2023, equation 1 with probability weights).

    >>> draws = SeedDraws([("a", 0), ("a", 1), ("b", 0), ("b", 1)], draws=0)
    >>> [round(vendi_score(draws, vectors).item(), 6) for vectors in (torch.eye(4), torch.ones(4, 1))]
    [4.0, 1.0]
    """
    root = (draws.weights / len(draws.prompts)).sqrt()
    gram = root[:, :, None] * (pictures.double() @ pictures.double().T) * root[:, None, :]
    values = torch.linalg.eigvalsh(gram).clamp(min=1e-12)
    return torch.exp(-(values * values.log()).sum(-1))


def vendi(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """`vendi_score` - 1 relative to the base's: 1 as the base, 0 a single picture."""
    return against_base(vendi_score(draws, now) - 1, vendi_score(draws, base) - 1, floor=0.1)


# -- the way to the photos ------------------------------------------------------------------------------


def pull(draws: SeedDraws, base: Tensor, now: Tensor, photos: Tensor) -> Tensor:
    """How far pictures went towards the photos: 0 as the base, 1 as near as the photos are to one another.

    On prompts without the identifier this is PRES of DreamBooth's prior preservation ablation, rescaled. It
    may exceed 1 when pictures sit amid the photos.

    Args:
        draws: The seeds' weights.
        base: The base's pictures, shape (n, d).
        now: The checkpoint's, shape (n, d).
        photos: The photos, shape (m, d).
    """
    photos = photos.double()
    middle, count = photos.mean(0), len(photos)
    # mean over pairs i != j of unit vectors, from the length of their mean
    among = (count * middle.square().sum() - 1) / (count - 1) if count > 1 else torch.tensor(1.0)
    before, after = draws.mean(base.double() @ middle), draws.mean(now.double() @ middle)
    return (after - before) / (among - before).clamp(min=PULL_FLOOR)


def aim(draws: SeedDraws, base: Tensor, now: Tensor, photos: Tensor) -> Tensor:
    """Cosine between the mean step of the pictures and the way to the photos, -1..1; 0 without any step.

    After the directional similarity of StyleGAN-NADA (Gal et al., arXiv:2108.00946). A fit that heads to the
    photos has a high aim, one that falls apart a low one. Arguments as in `pull`.
    """
    start = draws.mean(base)
    return functional.cosine_similarity(draws.mean(now) - start, photos.double().mean(0) - start, dim=-1)


def coherence(draws: SeedDraws, base: Tensor, now: Tensor) -> Tensor:
    """Length of the mean step over the mean length of the steps: 1 all pictures went one way, 0 none."""
    step = now.double() - base.double()
    together: Tensor = draws.mean(step).norm(dim=-1)
    return together / draws.mean(step.norm(dim=-1)).clamp(min=1e-9)
