"""Every number of a run, as frozen dataclasses; `training.recipes` fills them in."""

from dataclasses import dataclass


@dataclass(frozen=True)
class TextConfig:
    """Byte-pair text (arXiv 2102.12092, section 2.2).

    Attributes:
        vocabulary: upper limit of BPE entries, padding not counted.
        length: text positions in the transformer.
        dropout: probability that a BPE merge is skipped in training.
    """

    vocabulary: int
    length: int
    dropout: float = 0.1


@dataclass(frozen=True)
class DVAEConfig:
    """Shape of the dVAE (arXiv 2102.12092, appendix A.1).

    Attributes:
        image_size: side of the square image in pixels.
        hidden: width of the first encoder group; later groups are 2, 4, 8 times as wide.
        blocks_per_group: residual blocks in each group.
        groups: resolutions; the image shrinks by 2 between groups.
        vocabulary: entries of the codebook.
        decoder_init: width behind the decoder's 1x1 input convolution.
    """

    image_size: int = 256
    hidden: int = 256
    blocks_per_group: int = 2
    groups: int = 4
    vocabulary: int = 8192
    decoder_init: int = 128

    def __post_init__(self) -> None:
        if self.image_size % self.downsampling:
            raise ValueError(
                f"image_size {self.image_size} is not a multiple of {self.downsampling}, "
                f"which {self.groups} groups need"
            )

    @property
    def downsampling(self) -> int:
        """Pixels per code along one side."""
        return 2 ** (self.groups - 1)

    @property
    def grid(self) -> int:
        """Codes along one side."""
        return self.image_size // self.downsampling


@dataclass(frozen=True)
class Cosine:
    """A cosine move from `start` to `end` over the first `updates` updates, then constant."""

    start: float
    end: float
    updates: int


@dataclass(frozen=True)
class AdamWConfig:
    """AdamW without its step size.

    Attributes:
        variance_clip: the running variance is clipped to it by value (stage two, appendix B.2).
    """

    beta1: float
    beta2: float
    weight_decay: float
    epsilon: float = 1e-8
    variance_clip: float = float("inf")


@dataclass(frozen=True)
class DVAETraining:
    """How the dVAE is trained (arXiv 2102.12092, appendix A.2).

    Attributes:
        updates: optimiser steps.
        batch: images per step over all processes.
        step_size: of AdamW.
        kl_weight: beta of the evidence lower bound, before the loss is scaled.
        temperature: of the Gumbel-softmax relaxation.
        resize: least and greatest side before the random crop, in units of image_size (Listing 1).
        flip: whether images are mirrored at random.
        encoder_rate: the encoder's step size relative to the decoder's.
        codebook_warmup: begin from a k-means of encoder features instead of random codes, so
            that short runs do not spend themselves on reviving dead codes (not in the paper).
        clip: global gradient norm; the paper names none for this stage.
        least_log_scale: floor of ln b in the likelihood. Without one (the paper), a drawing's
            flat background, whose density grows without bound, takes all of the gradient.
        ema: decay of the averaged weights, applied after every update.
        least_share: a codebook whose perplexity is below this share of its entries has collapsed.
        precision: of products: fp32, bf16, fp16 (with one loss scale, as in the paper), or auto,
            which `training.dvae.loss_scale` resolves for the device.
        validate_every: updates between measurements on pictures that are not trained on.
        validation_images: how many.
    """

    updates: int
    batch: int
    step_size: Cosine
    kl_weight: Cosine
    temperature: Cosine
    adamw: AdamWConfig = AdamWConfig(0.9, 0.999, 1e-4)
    resize: tuple[float, float] = (9 / 8, 12 / 8)
    flip: bool = True
    encoder_rate: float = 1.0
    codebook_warmup: bool = False
    clip: float = float("inf")
    least_log_scale: float = float("-inf")
    ema: float = 0.999
    least_share: float = 1 / 16
    precision: str = "auto"
    validate_every: int = 1000
    validation_images: int = 64
    checkpoint_seconds: float = 600.0
    report_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class TransformerConfig:
    """Shape of the sparse transformer (arXiv 2102.12092, appendix B.1).

    Attributes:
        depth: attention layers; each is followed by an MLP.
        heads: attention heads.
        head_width: width of one head; the model's width is heads * head_width.
        convolution_kernel: side of the causal convolution pattern of the last layer.
    """

    depth: int
    heads: int
    head_width: int = 64
    convolution_kernel: int = 11

    @property
    def width(self) -> int:
        """Width of the residual stream."""
        return self.heads * self.head_width


@dataclass(frozen=True)
class DALLETraining:
    """How the transformer is trained (arXiv 2102.12092, appendix B.2).

    Attributes:
        updates: optimiser steps.
        batch: rows per step over all processes.
        step_size: reached at the end of the warm-up.
        warmup: updates of linear warm-up.
        decay: `plateau` halves at plateaus of the training loss, at most `halvings` times;
            `cosine` falls to step_size / 2**halvings at the last update.
        clip: global gradient norm.
        ema: decay of the averaged weights, applied every `ema_every` updates; before the first
            time the average is the weights.
        validate_every: updates between measurements on validation rows; 0: never.
        keep_checkpoints: the newest ones that are kept; the best one stays too.
    """

    updates: int
    batch: int
    step_size: float = 4.5e-4
    warmup: int = 5000
    decay: str = "plateau"
    halvings: int = 5
    adamw: AdamWConfig = AdamWConfig(0.9, 0.96, 4.5e-2, variance_clip=5.0)
    clip: float = 4.0
    ema: float = 0.99
    ema_every: int = 25
    text_weight: float = 1 / 8
    validate_every: int = 500
    keep_checkpoints: int = 2
    checkpoint_seconds: float = 600.0
    report_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class TowerConfig:
    """Shape of one tower of the contrastive model.

    Attributes:
        width: of the residual stream.
        layers: of attention, each followed by an MLP.
        heads: of each attention layer.
        mlp_ratio: hidden width of the MLPs, in units of `width`.
    """

    width: int
    layers: int
    heads: int
    mlp_ratio: float = 4.0

    def __post_init__(self) -> None:
        if self.width % self.heads:
            raise ValueError(f"width {self.width} is not a multiple of {self.heads} heads")


@dataclass(frozen=True)
class ContrastiveConfig:
    """Shape of the image-text model that reranks samples (CLIP: arXiv 2103.00020, section 2.4).

    Attributes:
        embedding: width of the space that both towers map into.
        image_size: side of the square image in pixels.
        patch: side of the squares that an image is cut into.
        image: the vision transformer.
        text: the causal text transformer.
        quick_gelu: the activation of OpenAI's own weights instead of GELU.
    """

    embedding: int
    image_size: int
    patch: int
    image: TowerConfig
    text: TowerConfig
    quick_gelu: bool = False

    def __post_init__(self) -> None:
        if self.image_size % self.patch:
            raise ValueError(f"image_size {self.image_size} is not a multiple of {self.patch}")


@dataclass(frozen=True)
class ContrastiveTraining:
    """How the contrastive model is trained (arXiv 2103.00020, section 2.5 and table 18).

    Attributes:
        updates: optimiser steps.
        batch: pairs per step over all processes; each is told from all others of its batch.
        step_size: reached at the end of the warm-up; falls to zero as a cosine.
        warmup: updates of linear warm-up.
        adamw: its weight decay spares gains, biases and the temperature.
        least_crop: least side of the random square crop, as a share of the shorter side.
        clip: global gradient norm.
    """

    updates: int
    batch: int
    step_size: float = 5e-4
    warmup: int = 2000
    adamw: AdamWConfig = AdamWConfig(0.9, 0.98, 0.2, 1e-6)
    least_crop: float = 0.9
    clip: float = float("inf")
    checkpoint_seconds: float = 600.0
    report_every: int = 100
    seed: int = 0


@dataclass(frozen=True)
class SplitConfig:
    """Which pairs are kept out of training.

    Attributes:
        validation: share of pairs, chosen by uid.
        held_out: regular expressions; a caption that one of them matches is never trained on,
            so that its parts are known to the models and their combination is not.
    """

    validation: float
    held_out: tuple[str, ...] = ()


@dataclass(frozen=True)
class Recipe:
    """One complete run of both stages, and of the model that reranks their samples."""

    name: str
    text: TextConfig
    dvae: DVAEConfig
    dvae_training: DVAETraining
    transformer: TransformerConfig
    dalle_training: DALLETraining
    contrastive: ContrastiveConfig
    contrastive_training: ContrastiveTraining
    split: SplitConfig

    @property
    def least_perplexity(self) -> float:
        """Perplexity of the codebook below which it has collapsed."""
        return self.dvae_training.least_share * self.dvae.vocabulary
