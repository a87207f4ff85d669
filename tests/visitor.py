"""A visitor of a served app who speaks HTTP, as a browser does: private events too, and whatever
it likes.
"""

import json
import secrets
from collections.abc import Iterable
from typing import Any

import httpx


class Visitor:
    """One browser, with its secret and one open page of the app `served` at `url`."""

    def __init__(self, served: Any, url: str) -> None:
        self.served, self.url = served, url.rstrip("/") + "/gradio_api/"
        self.session, self.token = secrets.token_hex(6), ""

    def open(self) -> None:
        """Load the page: the app gives a secret to a browser that has none."""
        self.token = self.fire("app.greet")["BrowserState"]
        self.fire("app.enter_link")

    def fire(self, handler: str, *given: Any, which: int = 0) -> dict[str, Any]:
        """The last answer to the event that `handler`, "page.name", serves, by label; or {"error":
        what is shown}.

        The secret comes first, as in a browser, then what is `given`; states are the server's,
        whatever is sent."""
        page, name = handler.split(".")
        found = [fn for fn in self.served.fns.values() if getattr(fn.fn, "__name__", "") == name]
        fn = [fn for fn in found if page in fn.fn.__module__.split(".")][which]
        token = [self.token] if fn.inputs and type(fn.inputs[0]).__name__ == "BrowserState" else []
        data = [*token, *given, *[None] * (len(fn.inputs) - len(token) - len(given))]
        body = {"data": data, "fn_index": fn._id, "session_hash": self.session}
        with httpx.Client(timeout=120) as client:
            joined = client.post(self.url + "queue/join", json=body)
            if joined.status_code != 200:
                return {"error": joined.text}
            with client.stream(
                "GET", self.url + "queue/data", params={"session_hash": self.session}
            ) as answer:
                values = _last(answer.iter_lines())
        if isinstance(values, dict):
            return values
        return {
            getattr(block, "label", None) or type(block).__name__: value
            for block, value in zip(fn.outputs, values, strict=True)
        }


def _last(lines: Iterable[str]) -> list[Any] | dict[str, Any]:
    """The values that an event ends with; generators send the first answer whole, then edits of
    the one before.
    """
    held: list[Any] = []
    for line in lines:
        message = json.loads(line[5:]) if line.startswith("data:") else {"msg": ""}
        if message["msg"] not in ("process_generating", "process_completed"):
            continue
        if not message["success"]:
            return {"error": message["output"].get("error")}
        new = message["output"].get("data") or []
        held = [_edited(*pair) for pair in zip(held, new, strict=True)] if held else new
        if message["msg"] == "process_completed":
            return held
    raise AssertionError("the event never ended")


def _edited(old: Any, new: Any) -> Any:
    """`Blocks` of dmq replace whole values, or leave them; an update that says nothing leaves
    them too.
    """
    edits = isinstance(new, list) and all(
        isinstance(one, list) and len(one) == 3 and one[1] == [] for one in new
    )
    value = (new[-1][2] if new else old) if edits else new
    return old if value == {"__type__": "update"} else value
