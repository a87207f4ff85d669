"""Errors become messages, answers go by name, a lost session begins anew."""

import gradio as gr
import pytest

from dmq.errors import DmqError
from pages import events, session


def test_errors_for_people_become_messages_without_html():
    def fail():
        raise DmqError("no model <b>x</b>")

    def later():
        yield 1
        raise DmqError("no model <b>x</b>")

    for call in (events.show_errors(fail), lambda: list(events.show_errors(later)())):
        with pytest.raises(gr.Error) as caught:
            call()
        assert caught.value.message == "no model &lt;b&gt;x&lt;/b&gt;"
        assert not caught.value.print_exception


def test_an_answer_that_nobody_shows_is_a_mistake():
    with pytest.raises(TypeError, match="typo"):
        events.order_answers(lambda: {"typo": 1}, ["typed"])()


def test_a_session_that_was_lost_starts_with_the_default():
    assert session.read("") == session.OPENING
