"""What the pages say, and how an error becomes words."""

from __future__ import annotations

import functools
import inspect
import logging
from collections.abc import Callable, Iterator
from html import escape
from typing import Any

from .uploads import Refused

__all__ = ["empty", "note", "worded"]

_log = logging.getLogger(__name__)


def note(text: str, warn: bool = False) -> str:
    """Set a sentence as a message; whatever it holds is text, never markup.

    Args:
        text: The sentence.
        warn: Whether it is a warning.

    Returns:
        HTML.
    """
    return f'<div class="mb-note{" warn" if warn else ""}" role="status">{escape(text)}</div>'


def empty(text: str) -> str:
    """Say what will be here.

    Args:
        text: The sentence.

    Returns:
        HTML.
    """
    return f'<div class="mb-empty">{escape(text)}</div>'


def worded(function: Callable[..., Any]) -> Callable[..., Any]:
    """Let a handler's errors reach the page as words: its own refusals whole, all others without what is inside.

    Args:
        function: A handler, plain or a generator.

    Returns:
        The handler; it raises `gradio.Error` only.
    """
    if inspect.isgeneratorfunction(function):

        @functools.wraps(function)
        def stream(*args: Any, **kwargs: Any) -> Iterator[Any]:
            try:
                yield from function(*args, **kwargs)
            except Exception as error:
                raise _in_words(error) from None

        return stream

    @functools.wraps(function)
    def call(*args: Any, **kwargs: Any) -> Any:
        try:
            return function(*args, **kwargs)
        except Exception as error:
            raise _in_words(error) from None

    return call


def _in_words(error: Exception) -> Exception:
    import gradio as gr

    if isinstance(error, gr.Error):
        return error
    if isinstance(error, Refused):
        title, text = "Not taken", str(error)
    else:
        _log.error("a handler failed", exc_info=error)
        title = "Sorry"
        text = "Something went wrong here, and nothing was changed. Try again, or with another file."
    # the page reads the message as HTML
    return gr.Error(escape(text, quote=False), duration=12, title=title, print_exception=False)
