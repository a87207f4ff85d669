"""What searches for groups found."""

import hashlib
import json
import re
from dataclasses import asdict, fields, replace
from pathlib import Path

import numpy as np

from .. import jsonio
from ..errors import DmqError
from ..recipe import LearnedGroups, MseSearch, Recipe
from ..results import SearchResult, Site
from . import folders
from .arrays import UNREADABLE, read_arrays, save_arrays
from .folders import home, written


def search_key(recipe: Recipe, spec: LearnedGroups, fingerprint: str) -> str:
    """A name for what a search depends on: the model, how it is run and quantized, the settings
    of the search.
    """
    activations = replace(
        recipe.activations, range=MseSearch()
    )  # learned ranges take the place of any
    asked = (
        spec,
        recipe.sampling,
        recipe.calibration,
        recipe.weights,
        activations,
        recipe.protection,
    )
    told = [jsonio.to_data(one, as_key=True) for one in (*asked, recipe.overrides)]
    data = [recipe.model, fingerprint, *told]
    digest = hashlib.sha256(json.dumps(data, sort_keys=True).encode()).hexdigest()[:10]
    return f"{re.sub(r'[^A-Za-z0-9]+', '-', recipe.model).strip('-')[-40:]}-search-{digest}"


def find_search(recipe: Recipe, spec: LearnedGroups, fingerprint: str) -> Path | None:
    """The folder of a finished search: the user's own before one that ships."""
    key = search_key(recipe, spec, fingerprint)
    places = [home() / "searches" / key, folders.ASSETS / "runs" / key]
    return next((place for place in places if (place / "search.safetensors").is_file()), None)


def save_search(recipe: Recipe, spec: LearnedGroups, result: SearchResult) -> Path:
    """Write what a search found, and the recipe it was for; returns the folder, which appears
    only when complete.
    """
    folder = home() / "searches" / search_key(recipe, spec, result.fingerprint)
    held = {f.name: getattr(result, f.name) for f in fields(result)}
    arrays = {name: x for name, x in held.items() if isinstance(x, np.ndarray)}
    arrays |= {f"local/{name}": x for name, x in result.local.items()}
    plain = {name: held[name] for name in ("model", "fingerprint", "sampler", "timesteps", "note")}
    plain |= {
        "version": 1,
        "sites": [asdict(site) for site in result.sites],
        "local": list(result.local),
    }
    with written(folder) as part:
        save_arrays(part / "search.safetensors", "search", plain, arrays)
        (part / "recipe.json").write_text(jsonio.dumps(recipe), encoding="utf-8")
    return folder


def load_search(folder: Path) -> SearchResult:
    """What `save_search` wrote. Raises DmqError if the folder is damaged or of another version."""
    file = folder / "search.safetensors"
    try:
        arrays, plain = read_arrays(file, "search")
        if plain.pop("version") != 1:
            raise DmqError(f"{folder.name}: a search of another version of dmq; search again.")
        plain["sites"] = tuple(Site(**site) for site in plain["sites"])
        plain["timesteps"] = tuple(plain["timesteps"])
        plain["local"] = {name: arrays.pop(f"local/{name}") for name in plain["local"]}
        return SearchResult(**plain, **arrays)
    except UNREADABLE as error:
        raise DmqError(f"{file}: damaged ({error}); delete the folder and search again.") from None
