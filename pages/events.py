"""Events whose answers go by name, errors told in one line, and when a tab is drawn."""

import contextlib
import functools
import html
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import gradio as gr

from dmq import public
from dmq.errors import DmqError, disk_error
from dmq.store import folders, quota

from .gpu import on_gpu
from .session import Shared, make_stamp


# What decides on the open tab: two at a time would each miss what the other one says.
ONE_BY_ONE: dict[str, Any] = {"concurrency_id": "tabs", "concurrency_limit": 1}


class Blocks(gr.Blocks):
    """`gr.Blocks` that know whose browser an event comes from, and whose generators send every
    value whole.

    Gradio sends what differs, and the browser writes that into the value before, which it may not
    have shown yet: a part that was made visible and is then left as it is would never be seen on a
    busy machine."""

    visitor: gr.BrowserState | None = (
        None  # of a public app: the secret by which a browser's own things are found
    )

    def ask_for_visitors(self) -> None:
        """Have every event that is connected from now on come with its browser's secret, if the
        app is public.
        """
        if public.is_public():
            # Both fixed: else what a browser keeps is lost when the app starts anew.
            self.visitor = gr.BrowserState("", storage_key="dmq-visitor", secret="dmq")

    def handle_streaming_diffs(
        self,
        block_fn: Any,
        data: list,
        session_hash: str | None,
        run: str | None,
        final: bool,
        simple_format: bool = False,
    ) -> list:
        """`data`, one answer of a generator, as edits `[action, path, value]` of the answer
        before; see Gradio.
        """
        before = list(self.pending_diff_streams.get(session_hash, {}).get(run, ()))
        data = super().handle_streaming_diffs(
            block_fn, data, session_hash, run, final, simple_format=True
        )
        if final or simple_format or not before:
            return data
        return [
            [] if old == new else [["replace", [], new]]
            for old, new in zip(before, data, strict=True)
        ]


def show_errors(handler: Callable) -> Callable:
    """`handler`, a function or a generator, with the errors that a user can fix shown as a
    message.
    """

    @functools.wraps(handler)
    def function(*args: Any, **kwargs: Any) -> Any:
        with _raise_as_message():
            return handler(*args, **kwargs)

    @functools.wraps(handler)
    def generator(*args: Any, **kwargs: Any) -> Iterator[Any]:
        with _raise_as_message():
            yield from handler(*args, **kwargs)

    return generator if inspect.isgeneratorfunction(handler) else function


@contextlib.contextmanager
def _raise_as_message() -> Iterator[None]:
    try:
        yield
    except gr.Error:
        raise
    except Exception as error:
        message = error if isinstance(error, DmqError) else disk_error(error)
        if message is None:
            raise
        raise gr.Error(
            html.escape(folders.hide_places(message), quote=False), print_exception=False
        ) from None


def bind_visitor(handler: Callable) -> Callable:
    """`handler` behind a first argument, the visitor's secret: what it keeps, lists and opens is
    that visitor's.

    Every step of a generator may run in another thread, each of which is told anew.
    """

    @functools.wraps(handler)
    def function(token: str, *args: Any, **kwargs: Any) -> Any:
        with public.as_visitor(token or ""), quota.job() as job, quota.working(job):
            return handler(*args, **kwargs)

    def take_step(token: str, work: Iterator[Any], job: Any) -> Any:
        with public.as_visitor(token), quota.working(job):
            return next(work, job)

    @functools.wraps(handler)
    def generator(token: str, *args: Any, **kwargs: Any) -> Iterator[Any]:
        token = token if public.is_token(token) else public.new_token()  # one for all steps
        work = handler(*args, **kwargs)
        with quota.job() as job:
            try:
                yield from iter(functools.partial(take_step, token, work, job), job)
            finally:
                with public.as_visitor(token), quota.working(job):
                    work.close()

    wrapper: Any = generator if inspect.isgeneratorfunction(handler) else function
    signature = inspect.signature(handler)
    token = inspect.Parameter("token", inspect.Parameter.POSITIONAL_OR_KEYWORD)
    wrapper.__signature__ = signature.replace(parameters=[token, *signature.parameters.values()])
    return wrapper


def bind(handler: Callable, *args: Any) -> Callable:
    """`handler` with its first arguments given; it keeps name and annotations, which Gradio
    reads.
    """
    bound = functools.update_wrapper(functools.partial(handler, *args), handler)
    del bound.__wrapped__  # else its signature would have the given arguments, too
    return bound


def order_answers(handler: Callable, names: list[str]) -> Callable:
    """`handler` answers with a dict; this gives its values in the order of `names`, what is
    missing stays as it is.
    """

    def ordered(answer: dict[str, Any]) -> Any:
        if unknown := answer.keys() - set(names):
            raise TypeError(
                f"{handler.__name__} answers for {', '.join(sorted(unknown))}, which nobody shows"
            )
        values = [answer.get(name, gr.skip()) for name in names]
        return (
            values if len(values) > 1 else values[0]
        )  # Gradio takes a list for a single output as its value

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


# What runs a model: one at a time, and on ZeroGPU on a GPU.
MODEL: dict[str, Any] = {"concurrency_id": "model", "concurrency_limit": 1}


def on(
    events: Any,
    handler: Callable,
    inputs: list,
    outputs: dict[str, Any],
    *,
    seconds: Callable[..., float] | None = None,
    **options: Any,
) -> Any:
    """`gr.on` for a handler that answers with a dict by output name; private, and without a
    flickering veil.

    `seconds`, a function of the same inputs, says how long a GPU is needed by one that runs a model
    (`**MODEL`)."""
    function, inputs, options = _connect(handler, inputs, outputs, seconds, options)
    return gr.on(events, function, inputs, list(outputs.values()), **options)


def run_after(
    event: Any, handler: Callable, inputs: list, outputs: dict[str, Any], **options: Any
) -> None:
    """Have `handler` run when the handlers of `event` have answered; it sees what they changed."""
    function, inputs, options = _connect(handler, inputs, outputs, None, options)
    event.then(function, inputs, list(outputs.values()), **options)


def _connect(
    handler: Callable,
    inputs: list,
    outputs: dict[str, Any],
    seconds: Callable[..., float] | None,
    options: dict[str, Any],
) -> tuple[Callable, list, dict[str, Any]]:
    """Function, inputs and options for Gradio: in a public app with the visitor's secret before
    the inputs.
    """
    handler, whose = show_errors(handler), getattr(gr.context.Context.root_block, "visitor", None)
    if whose is not None:
        handler, inputs = bind_visitor(handler), [whose, *inputs]
        seconds = bind_visitor(seconds) if seconds is not None else None
    function = order_answers(handler, list(outputs))
    if options.get("concurrency_id") == MODEL["concurrency_id"]:
        function = on_gpu(
            function, seconds
        )  # outermost: what crosses to the other process must be plain
    return function, inputs, {"show_progress": "hidden", "api_visibility": "private"} | options


def connect_show(
    shared: Shared, show: Callable, inputs: list, outputs: dict[str, Any], waiting: Any = None
) -> None:
    """Have `show(recipe text, *inputs)` draw the tab at hand whenever it is its turn; see
    `takes_turns`.

    `show` may answer piece by piece, as a generator. The component `waiting` shows how long it
    takes."""
    veil = {"show_progress": "minimal", "show_progress_on": waiting} if waiting else {}
    on(shared.turn.change, show, [shared.recipe, *inputs], outputs, **veil)


def connect_turns(shared: Shared, tabs: dict[str, gr.Tab], turns: dict[str, gr.State]) -> None:
    """Draw a tab when it is opened, and the open one when the recipe is set outside of it; both by
    the tab's id.

    The others do not hear of it: twenty events for each change keep the server busy that a class
    shares."""

    def turned(text: str, open_tab: str) -> dict[str, Any]:
        # While the page loads there is no recipe yet; the tab is drawn as soon as there is one.
        return {open_tab: make_stamp()} if text and open_tab in turns else {}

    first = next(
        iter(tabs)
    )  # which says that it is selected while the page loads, maybe after another was clicked

    def opens(key: str) -> Callable:
        def opened(text: str, open_tab: str) -> dict[str, Any]:
            if open_tab == key or (key == first and open_tab and not text):
                return {}
            return {"open_tab": key} | ({"turn": make_stamp()} if text else {})

        return opened

    for key, tab in tabs.items():
        outputs = {"open_tab": shared.open_tab, "turn": turns[key]}
        on(tab.select, opens(key), [shared.recipe, shared.open_tab], outputs, **ONE_BY_ONE)
    on(shared.outside.change, turned, [shared.recipe, shared.open_tab], turns, **ONE_BY_ONE)
