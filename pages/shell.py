"""What all tabs share: the current recipe as text, events whose answers go by name, errors told in one line."""

import functools
import html
import inspect
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import gradio as gr

from dmq import jsonio, stages
from dmq.errors import DmqError
from dmq.recipe import Recipe

from . import links


@dataclass(frozen=True)
class Shared:
    """The session's state; every value is text, so that a link or a file can hold all of it."""

    recipe: gr.State  # JSON of the current recipe
    outside: gr.State  # changes when the recipe was set elsewhere than in the tab that is open
    open_tab: gr.State  # id of the open tab
    turn: gr.State  # changes when the tab at hand is to be drawn; every tab has its own
    captured: gr.State  # changes when new statistics are there
    wanted: gr.State  # id of a tab to be opened, and a `stamp`, so that it changes every time


def read(text: str) -> Recipe:
    """The recipe in a session's state, which is empty before the page has loaded and after a restart."""
    return jsonio.loads(text) if text else links.OPENING


def stamp() -> str:
    """A text that was never there before: what `Shared.outside` is set to."""
    return str(time.monotonic_ns())


# What decides on the open tab: two at a time would each miss what the other one says.
ONE_BY_ONE = {"concurrency_id": "tabs", "concurrency_limit": 1}


def set_outside(recipe: Recipe) -> dict[str, str]:
    """The outputs by which a recipe is made the current one for all tabs."""
    return {"recipe": jsonio.dumps(recipe), "outside": stamp()}


def adopt(recipe: Recipe, current: Recipe) -> Recipe:
    """`recipe` for the current model and its statistics: model, sampling and calibration stay as they are."""
    moved = stages.for_model(recipe, current.model, current.sampling)
    return replace(moved, calibration=current.calibration)


class Blocks(gr.Blocks):
    """`gr.Blocks` whose generators send every value whole, or as unchanged.

    Gradio sends what differs, and the browser writes that into the value before, which it may not have shown yet: a
    part that was made visible and is then left as it is would never be seen on a busy machine.
    """

    def handle_streaming_diffs(
        self, block_fn: Any, data: list, session_hash: str | None, run: str | None, final: bool,
        simple_format: bool = False,
    ) -> list:  # fmt: skip
        """`data`, one answer of a generator, as edits `[action, path, value]` of the answer before; see Gradio."""
        before = list(self.pending_diff_streams.get(session_hash, {}).get(run, ()))
        data = super().handle_streaming_diffs(block_fn, data, session_hash, run, final, simple_format=True)
        if final or simple_format or not before:
            return data
        return [[] if old == new else [["replace", [], new]] for old, new in zip(before, data, strict=True)]


# --- events --------------------------------------------------------------------------------------------------------


def told(handler: Callable) -> Callable:
    """`handler`, a function or a generator, with the errors that a user can fix shown as a message."""

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        try:
            return handler(*args, **kwargs)
        except DmqError as error:
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None

    @functools.wraps(handler)
    def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
        try:
            yield from handler(*args, **kwargs)
        except DmqError as error:
            raise gr.Error(html.escape(str(error), quote=False), print_exception=False) from None

    return generator if inspect.isgeneratorfunction(handler) else function


def by_name(handler: Callable, names: list[str]) -> Callable:
    """`handler` answers with a dict; this gives its values in the order of `names`, what is missing stays as it is."""

    def ordered(answer: dict[str, Any]) -> Any:
        if unknown := answer.keys() - set(names):
            raise TypeError(f"{handler.__name__} answers for {', '.join(sorted(unknown))}, which nobody shows")
        values = [answer.get(name, gr.skip()) for name in names]
        return values if len(values) > 1 else values[0]  # Gradio takes a list for a single output as its value

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        return ordered(handler(*args, **kwargs))

    @functools.wraps(handler)
    def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
        # Not `yield from`: closing this one must close the handler too, at once.
        work = handler(*args, **kwargs)
        try:
            for answer in work:
                yield ordered(answer)
        finally:
            work.close()

    return generator if inspect.isgeneratorfunction(handler) else function


def on(events: Any, handler: Callable, inputs: list, outputs: dict[str, Any], **options: Any) -> Any:
    """`gr.on` for a handler that answers with a dict by output name; private, and without a flickering veil."""
    options = {"show_progress": "hidden", "api_visibility": "private"} | options
    return gr.on(events, by_name(told(handler), list(outputs)), inputs, list(outputs.values()), **options)


def follows(event: Any, handler: Callable, inputs: list, outputs: dict[str, Any], **options: Any) -> None:
    """Have `handler` run when the handlers of `event` have answered; it sees what they changed."""
    told_by_name = by_name(told(handler), list(outputs))
    options = {"show_progress": "hidden", "api_visibility": "private"} | options
    event.then(told_by_name, inputs, list(outputs.values()), **options)


def stops(
    button: gr.Button, running: list, stopped: Callable, outputs: dict[str, Any], inputs: list | None = None
) -> None:
    """Have `button` end the events `running`, and only then say so: a late answer of theirs would stand over it."""
    ended = button.click(None, cancels=running, api_visibility="private")
    follows(ended, stopped, inputs or [], outputs)


def shows(shared: Shared, show: Callable, inputs: list, outputs: dict[str, Any], waiting: Any = None) -> None:
    """Have `show(recipe text, *inputs)` draw the tab at hand whenever it is its turn; see `takes_turns`.

    `show` may answer piece by piece, as a generator. The component `waiting` shows how long it takes.
    """
    veil = {"show_progress": "minimal", "show_progress_on": waiting} if waiting else {}
    on(shared.turn.change, show, [shared.recipe, *inputs], outputs, **veil)


def takes_turns(shared: Shared, tabs: dict[str, gr.Tab], turns: dict[str, gr.State]) -> None:
    """Draw a tab when it is opened, and the open one when the recipe is set outside of it; both by the tab's id.

    The others do not hear of it: twenty events for each change keep the server busy that a class shares.
    """

    def turned(text: str, open_tab: str) -> dict[str, Any]:
        # While the page loads there is no recipe yet; the tab is drawn as soon as there is one.
        return {open_tab: stamp()} if text and open_tab in turns else {}

    first = next(iter(tabs))  # which says that it is selected while the page loads, maybe after another was clicked

    def opens(key: str) -> Callable:
        def opened(text: str, open_tab: str) -> dict[str, Any]:
            if open_tab == key or (key == first and open_tab and not text):
                return {}
            return {"open_tab": key} | ({"turn": stamp()} if text else {})

        return opened

    for key, tab in tabs.items():
        made = {"open_tab": shared.open_tab, "turn": turns[key]}
        on(tab.select, opens(key), [shared.recipe, shared.open_tab], made, **ONE_BY_ONE)
    on(shared.outside.change, turned, [shared.recipe, shared.open_tab], turns, **ONE_BY_ONE)


def bar(progress: Any) -> str:
    """A stage's progress as HTML: a bar and, in words, how long it will take."""
    percent = round(100 * progress.done / max(1, progress.total))
    ends = f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" aria-label="Progress"'
    track = f'<div class="dmq-meter" role="progressbar" {ends}><div style="width: {percent}%"></div></div>'
    return f'<div class="dmq-progress" role="status">{track}<span>{html.escape(str(progress))}</span></div>'


def note(text: str) -> str:
    """A quiet line where a progress bar may stand."""
    return f'<div class="dmq-progress" role="status"><span>{html.escape(text)}</span></div>' if text else ""
