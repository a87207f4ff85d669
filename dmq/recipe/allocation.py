"""How many bits where: what choices cost, budgets, and rules that they respect."""

from dataclasses import dataclass

from ..errors import DmqError
from .formats import KMeans, Uaq, WeightFormat, format_name, parse_format
from .spec import FLOAT, Spec, option


@dataclass(frozen=True, kw_only=True)
class Sensitivity(Spec):
    """A question: what does it cost to make one layer's weight into each of some choices? In noise,
    images or text.

    The bits, ranges and groups of the activations are the recipe's, or float.
    """

    choices: tuple[WeightFormat, ...] = tuple(
        WeightFormat(bits=bits, format=form)
        for bits in (4, 3, 2)
        for form in (Uaq(), KMeans(), KMeans(shared="tensor"))
    )
    how: str = option(
        "measure",
        "How",
        choices=("measure", "fisher", "local"),
        help="measure: run the model once for each layer and choice. fisher: estimate all of them "
        "from gradients in "
        "one pass. local: the error of the layer's own output.",
    )
    mode: str = option(
        "only",
        "What is quantized",
        choices=("only", "all_but"),
        help="Only this layer, or all layers but this one (then the cost is what its restoration "
        "saves).",
    )
    measure: str = option(
        "noise",
        "Judged by",
        choices=("noise", "image", "text"),
        was_choices={"image": "picture"},
        help="The noise prediction on recorded steps, the distance of images from float ones, or "
        "their match with "
        "the prompt.",
    )
    steps: int = option(8, "Steps looked at", 1, 1000, help="Spread evenly over the trajectory.")
    images: int = option(2, "Images", 1, 256, was="pictures")
    probes: int = option(
        4, "Probes", 1, 1024, help="Random directions for each step and image (fisher)."
    )
    activations: bool = option(False, "Activations as in the recipe", help="Otherwise in float.")
    seed: int = option(0, "Seed", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = [format_name(choice) for choice in self.choices]
        if not labels or len(set(labels)) < len(labels):
            raise DmqError(f"sensitivity needs choices that differ, got {labels}.")
        if "float" in labels:
            raise DmqError("the choice 'float' costs nothing and need not be measured.")
        if self.how != "measure" and (self.mode, self.measure) != ("only", "noise"):
            raise DmqError(
                f"how {self.how!r} knows mode 'only' and measure 'noise' only; set how to "
                "'measure'."
            )


@dataclass(frozen=True, kw_only=True)
class Rule(Spec):
    """What a budget must respect for the layers whose name matches `layers`, a pattern with *."""

    layers: str
    choice: str = ""  # this one and no other, such as "UAQ-4" or "float"
    least: int = option(0, "Least bits", 0, FLOAT)
    same: bool = option(False, "All the same choice")

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.choice:
            parse_format(self.choice)
        if not (self.choice or self.least or self.same):
            raise DmqError(
                f"rule for {self.layers!r} says nothing: give a choice, least bits, or same."
            )


@dataclass(frozen=True, kw_only=True)
class Budget(Spec):
    """How much the weights of the layers may take: in bytes, or in bits a weight on average."""

    bits: float | None = 4.0
    bytes: int | None = None
    rules: tuple[Rule, ...] = ()

    def __post_init__(self) -> None:
        super().__post_init__()
        if (self.bits is None) == (self.bytes is None):
            raise DmqError("a budget is given in bits or in bytes: set the other one to null.")


LABELS = ("features", "noise", "latent", "fid_float", "fid_reference")


@dataclass(frozen=True, kw_only=True)
class Predictor(Spec):
    """A question: how good is the model with each mix of choices? Learned from random mixes
    (Qua²SeDiMo).

    Mixes are judged with activations in float. A label is better the higher it is.
    """

    choices: tuple[WeightFormat, ...] = tuple(
        WeightFormat(bits=bits, format=form)
        for bits in (4, 3)
        for form in (Uaq(), KMeans(), KMeans(shared="tensor"))
    )
    configurations: int = option(100, "Random mixes", 20, 100_000)
    label: str = option(
        "features",
        "Judged by",
        choices=LABELS,
        help="The distance from the float model's images in features of images, of its noise "
        "prediction, of its "
        "finished samples (the smaller the better, in logarithms); or the Fréchet distance to "
        "float or real images.",
    )
    images: int = option(
        8,
        "Images",
        1,
        100_000,
        help="Of each mix, the same prompts and noises for all.",
        was="pictures",
    )
    steps: int = option(
        10,
        "Steps of an image",
        1,
        1000,
        help="Fewer than in use: only the order of mixes matters.",
    )
    repeats: int = option(
        5, "Mixes judged twice", 0, 1000, help="With other noises: how sure is a label?"
    )
    bits_price: float = option(
        0.0,
        "Price of a bit",
        0.0,
        1e6,
        help="Taken off the label for each average bit; 0 for use with a budget.",
    )
    loss: str = option(
        "hybrid",
        "Loss",
        choices=("mse", "srcc", "ndcg", "hybrid"),
        help="Ranking beside regression.",
    )
    weight: float = option(1.0, "Weight of the ranking", 0.0, 1000.0)
    width: int = option(32, "Width of the network", 4, 256, help="64 in the paper.")
    epochs: int = option(60, "Epochs", 1, 100_000, help="10,000 in the paper.")
    rate: float = option(0.005, "Learning rate", 1e-6, 1.0, help="0.001 in the paper.")
    folds: int = option(5, "Folds", 2, 20)
    combinations: int = option(
        1296, "Mixes of a block", 1, 100_000, help="At most; of more, these many at random."
    )
    seed: int = option(0, "Seed", 0, 2**31 - 1)

    def __post_init__(self) -> None:
        super().__post_init__()
        labels = [format_name(choice) for choice in self.choices]
        if len(labels) < 2 or len(set(labels)) < len(labels):
            raise DmqError(f"a predictor needs two choices or more that differ, got {labels}.")
        if self.configurations < 4 * self.folds:
            raise DmqError(
                f"{self.configurations} random mixes are too few for {self.folds} folds of four."
            )


@dataclass(frozen=True, kw_only=True)
class Mixed(Spec):
    """Give each layer the choice that a budget has for it, by what choices cost or score
    (Qua²SeDiMo, budgeted).

    Layers that stay in float by protection are left out, and overrides are stronger.
    """

    by: Predictor | Sensitivity = Predictor()
    level: str = option(
        "block",
        "Scores of",
        choices=("op", "block", "ridge"),
        help="With a predictor: of each layer by itself, within its block, or of its ridge "
        "regression.",
    )
    budget: Budget = Budget(bits=3.7)
