"""A tiny pipeline with its statistics, for the tests of the pages, the browser and the whole
path.
"""

import contextlib
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import CLIPConfig, CLIPImageProcessorPil, CLIPModel

from dmq.models.tiny import letters, tiny_sd
from dmq.progress import run_to_end
from dmq.recipe import Activations, Calibration, Recipe, Sampling, UniformGroups
from dmq.workflow.learning import capture_statistics


@contextlib.contextmanager
def runs_in(folder: Path) -> Iterator[Path]:
    """Runs are kept in `folder`/runs while the block lasts, in this process and in those that it
    starts.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DMQ_RUNS", str(folder / "runs"))
        yield folder


def tiny_clip(folder: Path) -> Path:
    """A real CLIPModel of a few thousand random weights, with its tokenizer and processor, saved
    in `folder`.
    """
    torch.manual_seed(0)
    tower = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
    }
    ends = {
        "vocab_size": 28,
        "max_position_embeddings": 12,
        "bos_token_id": 0,
        "eos_token_id": 1,
        "pad_token_id": 1,
    }
    config = CLIPConfig(
        text_config=tower | ends,
        vision_config=tower | {"image_size": 16, "patch_size": 4},
        projection_dim=12,
    )
    CLIPModel(config).save_pretrained(folder, safe_serialization=True)
    letters().save_pretrained(folder)
    CLIPImageProcessorPil(size={"shortest_edge": 16}, crop_size=16).save_pretrained(folder)
    return folder


def captured_recipe(folder: Path, steps: int) -> Recipe:
    """Six bits in two groups of `steps` steps, for a tiny prompted model in `folder` whose
    statistics are there.
    """
    tiny_sd().save_pretrained(folder / "tiny-sd", safe_serialization=True)
    made = Recipe(
        name="tiny",
        model=str(folder / "tiny-sd"),
        sampling=Sampling(steps=steps, guidance=2.0),
        calibration=Calibration(samples=2, batch=2, prompts=("a", "b")),
        activations=Activations(bits=6),
        grouping=UniformGroups(count=2),
    )
    run_to_end(capture_statistics(made))
    return made
