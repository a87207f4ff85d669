"""A long job in a tab: its buttons, its line of progress, and what they show while it runs and
however it ends.

    JOB = JobPanel(start={"go": "Measure"}, stop="Stop measuring", progress="Progress of …", stopped="Stopped; …")

    @JOB.run
    def measure(text):
        recipe = read(text)               # what is wrong is said before any button changes
        yield {}                          # what is shown at the start, beside the buttons
        result = yield from watch(measure_costs(recipe, ask), draw)
        return {"status": note("Measured.")} | show(result)     # what is shown at the end

A job answers with dicts by output name, as every handler; the panel adds its own outputs, "status"
and the buttons."""

import contextlib
import functools
import html
import math
import time
from collections.abc import Callable, Generator, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import gradio as gr

from dmq.progress import Progress, Value, relay_each

from .events import MODEL, on, run_after


Answer = dict[str, Any]  # values by output name

BAR_SECONDS = 0.2  # between two bars: a page that is told of every step cannot be clicked any more
FIGURE_SECONDS = (
    1.0  # between two figures that are costly to draw: drawing them takes time from the job
)


@dataclass(frozen=True, kw_only=True)
class JobPanel:
    """The buttons and the line of progress of one long job.

    Outputs are "status", "stop" and the names in `start`.
    """

    start: dict[str, str]  # texts of the buttons that start or resume it, by output name
    stop: str  # text of the button that stops it
    progress: str  # label of the line of progress
    stopped: str  # what is said after Stop
    hidden: tuple[
        str, ...
    ] = ()  # buttons in `start` that are shown by others, when there is something to start
    at_end: Callable[[], Answer] = dict  # what else is shown however the job ends
    after_stop: Callable[[str], Answer] | None = (
        None  # what else is shown after Stop, from the recipe's text
    )

    def build(self, out: dict[str, Any], **options: Any) -> None:
        """Draw all buttons in a row, and the line of progress below, into `out`."""
        with gr.Row():
            self.build_buttons(out, **options)
        self.build_progress(out)

    def build_buttons(self, out: dict[str, Any], *names: str, **options: Any) -> None:
        """Draw the buttons of these names into `out`, or all."""
        for name in names or (*self.start, "stop"):
            variant: Literal["stop", "primary", "secondary"] = "secondary"
            if name in ("stop", next(iter(self.start))):
                variant = "stop" if name == "stop" else "primary"
            visible = name != "stop" and name not in self.hidden
            text = self.stop if name == "stop" else self.start[name]
            out[name] = gr.Button(text, variant=variant, visible=visible, **options)

    def build_progress(self, out: dict[str, Any]) -> None:
        """Draw the line of progress into `out`."""
        out["status"] = gr.HTML(label=self.progress)

    def show_busy(self) -> Answer:
        """The panel when the job begins."""
        hidden = {name: gr.update(visible=False) for name in self.start}
        return hidden | {
            "stop": gr.update(visible=True),
            "status": format_note("Waiting for the model …"),
        }

    def show_idle(self) -> Answer:
        """The panel when nothing runs."""
        shown = {name: gr.update(visible=True) for name in self.start if name not in self.hidden}
        return shown | {"stop": gr.update(visible=False), "status": ""} | self.at_end()

    def run(
        self, job: Callable[..., Generator[Answer, None, Answer]]
    ) -> Callable[..., Iterator[Answer]]:
        """`job` as a handler that shows the panel as well; see the top of this file."""

        @functools.wraps(job)
        def answers(*args: Any, **kwargs: Any) -> Iterator[Answer]:
            with contextlib.closing(job(*args, **kwargs)) as work:
                first = self.show_busy() | next(work)
                yield first
                try:
                    end = yield from work
                except Exception:
                    again = {
                        name: gr.update(visible=True)
                        for name in self.hidden
                        if "visible" in first[name]
                    }
                    yield again | self.show_idle()
                    raise
            yield self.show_idle() | end

        return answers

    def show_stopped(self, text: str = "") -> Answer:
        """The panel after Stop, for the recipe's `text`."""
        shown = self.show_idle() | {"status": format_note(self.stopped)}
        return shown | self.after_stop(text) if self.after_stop else shown

    def connect(
        self,
        out: dict[str, Any],
        handler: Callable,
        inputs: list,
        more_outputs: dict[str, Any] | None = None,
        **options: Any,
    ) -> None:
        """Have the first button start `handler`, and Stop end it; the first of `inputs` is the
        recipe's text.
        """
        click, outputs = out[next(iter(self.start))].click, out | (more_outputs or {})
        started = self.connect_start(click, handler, inputs, outputs, **options)
        self.connect_stop(out, [started], inputs[0])

    def connect_start(
        self, events: Any, handler: Callable, inputs: list, outputs: dict[str, Any], **options: Any
    ) -> Any:
        """Have `events` start `handler`, which `run` made; returns what `connect_stop` needs."""
        # "multiple", since Gradio would drop a click that comes before it has noticed that the
        # stopped run is over.
        shown = {
            "show_progress": "minimal",
            "show_progress_on": outputs["status"],
            "trigger_mode": "multiple",
        }
        return on(events, handler, inputs, outputs, **shown | MODEL | options)

    def connect_stop(self, out: dict[str, Any], running: list, recipe: gr.State) -> None:
        """Have Stop end the events `running`, and only then say so: a late answer of theirs
        would stand over it.
        """
        ended = out["stop"].click(None, cancels=running, api_visibility="private")
        run_after(ended, self.show_stopped, [recipe], out)


def watch(
    work: Generator[Any, None, Value],
    draw: Callable[[Any], Answer] | None = None,
    *,
    seconds: float = 0.0,
) -> Generator[Answer, None, Value]:
    """Run `work` with a bar now and then, and at the start of each stage; returns what it returns.

    `draw` gets what there is to see: a new snapshot of some progress, at most every so many
    `seconds`, or whatever `work` yields that is no progress."""
    bar_time = draw_time = -math.inf
    stage, snapshot = "", None

    def convert(item: Any) -> Iterator[Answer]:
        nonlocal bar_time, draw_time, stage, snapshot
        answer: Answer = {}
        if not isinstance(item, Progress):
            answer = draw(item) if draw else answer
            if answer:
                yield answer
            return
        is_new = item.snapshot is not None and item.snapshot is not snapshot
        if draw and is_new and time.monotonic() - draw_time >= seconds:
            answer, snapshot = draw(item.snapshot), item.snapshot
            draw_time = time.monotonic()
        if answer or item.stage != stage or time.monotonic() - bar_time >= BAR_SECONDS:
            bar_time, stage = time.monotonic(), item.stage
            yield answer | {"status": format_bar(item)}

    return (yield from relay_each(work, convert))


def format_bar(progress: Any) -> str:
    """A stage's progress as HTML: a bar and, in words, how long it will take."""
    percent = round(100 * progress.done / max(1, progress.total))
    ends = f'aria-valuemin="0" aria-valuemax="100" aria-valuenow="{percent}" aria-label="Progress"'
    track = f'<div class="dmq-meter" role="progressbar" {ends}><div style="width: {percent}%"></div></div>'
    return f'<div class="dmq-progress" role="status">{track}<span>{html.escape(str(progress))}</span></div>'


def format_note(text: str) -> str:
    """A quiet line where a progress bar may stand."""
    return (
        f'<div class="dmq-progress" role="status"><span>{html.escape(text)}</span></div>'
        if text
        else ""
    )
