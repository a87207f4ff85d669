"""The sensitivity tables of a model, by the names that visitors choose among; what they hold
for, in words.
"""

import contextlib
import html
import math
from functools import lru_cache
from pathlib import Path

from dmq.artifacts.model_info import get_info
from dmq.errors import DmqError
from dmq.figures.style import plain
from dmq.results import PredictorResult, SensitivityTable
from dmq.store.learned import TABLES, find_predictors, load_predictor
from dmq.workflow.tables import list_tables, load_table


REWARD = (
    "These are a predictor's **scores**: how much better a choice makes the whole model's label. "
    "If the label was "
    "trained with a reward for fewer bits, the scores mix sensitivity with that reward, and a "
    "sensitive layer's best "
    "choice can be one of few bits: such scores do not say which layers to keep at many bits. What "
    "does in either "
    "case is how much the choice matters: the dearest less the cheapest."
)
KINDS = {
    "measured": "measured by running the model",
    "estimated": "estimated from gradients",
    "local": "error of each layer's own output",
    "predicted": "predicted",
    "score": "scores of a predictor",
}


def escape(text: str) -> str:
    """`text` in Markdown or HTML, such as a name that came from elsewhere."""
    return html.escape(text, quote=False)


def list_titles(model: str) -> dict[str, str]:
    """Titles of everything that is kept for `model`, by name: tables, then what can be made of
    predictors.
    """
    titles = {folder.name: title for title, folder in list_tables(model)}
    for folder in find_predictors(get_info(model).fingerprint):
        with contextlib.suppress(DmqError):  # a damaged one must not take the whole tab away
            predictor = load_predictor(folder)
            for level, make_table in TABLES.items():
                titles[f"{folder.name}.{level}"] = (
                    f"{make_table(predictor).title}, {len(predictor.labels)} mixes: {predictor.label}"
                )
    return titles


Key = tuple[
    Path, str, int
]  # of a table: its folder, what is made of the predictor in it, and when it was written


def find_key(model: str, name: str | None) -> Key:
    """The kept table of that name.

    Raises DmqError if `model` has none such: names come from visitors.
    """
    fingerprint = get_info(model).fingerprint
    for _ in range(2):
        folder, level = _find_folder(model, fingerprint, name)
        try:
            return folder, level, folder.stat().st_mtime_ns
        except FileNotFoundError:  # removed since it was found
            _find_folder.cache_clear()
    raise _make_error(model, name)


@lru_cache(maxsize=64)  # a slider asks again and again, and finding tables reads all of them
def _find_folder(model: str, fingerprint: str, name: str | None) -> tuple[Path, str]:
    places = {folder.name: (folder, "") for _, folder in list_tables(model)}
    places |= {
        f"{folder.name}.{level}": (folder, level)
        for folder in find_predictors(fingerprint)
        for level in TABLES
    }
    if name not in places:
        raise _make_error(model, name)
    return places[name]


def _make_error(model: str, name: str | None) -> DmqError:
    return DmqError(f"there is no table {name!r:.60} of {model}; choose another one.")


@lru_cache(maxsize=16)
def load(key: Key) -> SensitivityTable:
    """The table of that key, read once."""
    folder, level, _ = key
    return TABLES[level](load_predictor(folder)) if level else load_table(folder)


def find_table(model: str, name: str | None) -> SensitivityTable:
    """The kept table of that name. Raises DmqError if there is none."""
    return load(find_key(model, name))


def find_predictor(model: str, name: str | None) -> PredictorResult | None:
    """The predictor that the table of that name is made of; None if it is made otherwise.

    Raises DmqError as above.
    """
    folder, level, _ = find_key(model, name)
    return load_predictor(folder) if level else None


def describe_table(table: SensitivityTable) -> str:
    """What the costs are, in two or three sentences."""
    text = f"**{escape(table.title)}** ({KINDS.get(table.kind, table.kind)}): {len(table.layers)} layers, "
    text += (
        f"{table.num_weights:,} weights, {len(table.choices)} choices ({', '.join(table.labels)}). "
    )
    text += f"A cost is in **{escape(table.unit)}**; less is better."
    if table.timesteps:
        count = len(table.timesteps)
        text += f" Seen at {count} step{'s' if count > 1 else ''}, t = {table.timesteps[0]:g}"
        text += f" to {table.timesteps[-1]:g}." if count > 1 else "."
    missing = sum(not math.isfinite(value) for value in table.cost.ravel().tolist())
    text += f" {missing:,} of {table.cost.size:,} costs are not known." if missing else ""
    return text + (f"\n\n⚠ {escape(table.note)}" if table.note else "")


def format_layer(table: SensitivityTable, row: int) -> str:
    """What one layer costs as each choice, as an HTML table."""
    layer = table.layers[row]
    head = ["choice", "bytes", f"cost: {table.unit}", "standard error"]
    head += ["error of the weight"] if table.local is not None else []
    lines = []
    for c, label in enumerate(table.labels):
        cells = [
            label,
            f"{table.bytes[row, c]:,}",
            _format_number(table.cost[row, c]),
            _format_number(table.spread[row, c]),
        ]
        cells += [_format_number(table.local[row, c])] if table.local is not None else []
        lines.append(cells)
    shape = " × ".join(map(str, layer.shape))
    title = f"<b>{escape(layer.name)}</b> ({layer.kind}, {layer.role}, {shape}: {layer.num_weights:,} weights)"
    return f"<p>{title}</p>{format_table(head, lines)}"


def format_table(head: list[str], lines: list[list[str]]) -> str:
    """A table of figures that scrolls alone where it is wider than the page."""
    titles = "".join(f"<th>{escape(title)}</th>" for title in head)
    rows = "".join(
        f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in line)}</tr>" for line in lines
    )
    return f'<div class="dmq-wide"><table><tr>{titles}</tr>{rows}</table></div>'


def _format_number(value: float) -> str:
    return plain(float(value)) if math.isfinite(value) else "–"
