"""Batches of images that several processes, or the workers of a Dask cluster, generate."""

import json
from collections.abc import Callable, Generator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .. import engine
from ..models.generation import generate_batch
from ..models.libraries import load
from ..progress import relay, run_to_end
from ..recipe import Recipe, Sampling
from ..workflow.answers import get_model
from ..workflow.steps import carry_out


Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class ImageBatch:
    """Images of a model that workers load by its name, of pairs of prompt and seed."""

    model: str
    recipe: Recipe | None  # None: the float model
    jobs: tuple[tuple[str, int], ...]
    sampling: Sampling
    number: int
    shown_steps: frozenset[int] = field(default_factory=frozenset)

    @property
    def name(self) -> str:
        return f"{self.number:05d}"


def generate(batch: ImageBatch) -> Arrays:
    """`images` and `latents` of a batch, the `seconds` of sampling, images `between` at the (image,
    step) of `between_at`, and `notes` of the model, as JSON.

    Runs anywhere: what the recipe needs is made first where the run folder lacks it."""
    loaded = load(batch.model)
    model = loaded.denoiser
    if batch.recipe is not None:
        run_to_end(carry_out(batch.recipe))
        model = get_model(batch.recipe)
    between: dict[tuple[int, int], np.ndarray] = {}

    def keep(step: int, pixels: list) -> None:
        between.update({(n, step): x for n, x in enumerate(pixels) if x is not None})

    work = generate_batch(loaded, model, list(batch.jobs), batch.sampling, set(batch.shown_steps))
    generated = run_to_end(relay(work, keep))
    notes = json.dumps(list(getattr(vars(model).get("clock"), "notes", ())))
    return {
        "images": np.stack(generated.images),
        "latents": generated.latents,
        "seconds": np.array(generated.seconds),
        "between_at": np.array(list(between), np.int64).reshape(-1, 2),
        "between": np.array(list(between.values()), np.uint8),
        "notes": np.frombuffer(notes.encode(), np.uint8),
    }


def read_notes(arrays: Arrays) -> list[str]:
    """What the model of a batch had to say."""
    return json.loads(arrays["notes"].tobytes())


def share(
    batches: Sequence[ImageBatch],
    keep: Callable[[ImageBatch, Arrays], Any],
    report: Callable[[int], Any],
    **shared: Any,
) -> Generator[Any, None, None]:
    """Let workers generate `batches`, and `keep` each; `report` is told how many steps of
    images are done, and yielded. `shared` are the `scheduler` and `workers` of `engine.run`.
    """
    finished = 0

    def kept(batch: ImageBatch, arrays: Arrays) -> None:
        nonlocal finished
        keep(batch, arrays)
        finished += len(batch.jobs) * batch.sampling.steps

    yield from relay(
        engine.run(generate, batches, kept=kept, **shared), lambda *_: report(finished)
    )
