"""The Space as a whole: its pages, its middleware, and the server's settings."""

from __future__ import annotations

import atexit
import os
import shutil
import signal
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

from .world import World, find_models

__all__ = ["build", "launch", "serve"]

_KEPT_SECONDS = 3600
_POLICY = (
    "default-src 'self'; script-src 'self' 'unsafe-inline' 'unsafe-eval' blob:; style-src 'self' 'unsafe-inline'; "
    "img-src 'self' data: blob:; font-src 'self' data:; connect-src 'self' data: blob:; worker-src 'self' blob:; "
    "object-src 'none'; base-uri 'self'; form-action 'self'"
)


def build(world: World) -> Any:
    """Build the pages.

    Args:
        world: What all sessions share.

    Returns:
        `gradio.Blocks`, not launched.
    """
    import gradio as gr

    from .bring import bring_page
    from .chat import chat_page
    from .gap import gap_page
    from .imagine import imagine_page

    with gr.Blocks(title="hf_modalbridge", analytics_enabled=False, delete_cache=(300, _KEPT_SECONDS)) as blocks:
        gr.HTML(
            "<h1>hf_modalbridge</h1><p>A language model reads a modality for which complete paired data does not "
            "exist. What you upload is read, kept in memory for your session, and deleted.</p>",
            elem_classes="mb-head",
        )
        with gr.Tabs():
            with gr.Tab("Chat", id="chat"):
                chat_page(world)
            with gr.Tab("Imagine", id="imagine"):
                imagine_page(world)
            with gr.Tab("Gap explorer", id="gap"):
                gap_page(world)
            with gr.Tab("Bring your modality", id="bring"):
                bring_page(world)
    blocks.queue(default_concurrency_limit=2, max_size=64)
    return blocks


def launch(world: World, host: str = "127.0.0.1", port: int | None = None, **settings: Any) -> Any:
    """Build the pages and serve them.

    Nothing is shared with gradio's servers, no folder of this machine can be read, and uploads lie in a folder of
    their own that is deleted with the process.

    Args:
        world: What all sessions share.
        host: Address to listen at.
        port: Port; None takes the first free one from 7860 on.
        **settings: More of `gradio.Blocks.launch`'s arguments, `prevent_thread_lock` for instance.

    Returns:
        What `gradio.Blocks.launch` returns, with the blocks first: `(blocks, app, local address, None)`.
    """
    folder = Path(tempfile.mkdtemp(prefix="modalbridge-space-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    from starlette.middleware import Middleware

    from .guard import Guard
    from .theme import CSS, HEAD, theme

    blocks = build(world)
    served = blocks.launch(
        server_name=host,
        server_port=port,
        share=False,
        show_error=False,
        allowed_paths=[],
        max_file_size=world.limits.file_bytes,
        app_kwargs={"middleware": [Middleware(Guard, policy=_POLICY)], "docs_url": None, "redoc_url": None},
        theme=theme(),
        css=CSS,
        head=HEAD,
        ssr_mode=False,
        run_history=False,
        enable_monitoring=False,
        footer_links=["settings"],
        pwa=False,
        mcp_server=False,
        **settings,
    )
    return (blocks, *served)


def serve(
    model: str | Path | None = None,
    points: str | Path | None = None,
    stores: str | Path | None = None,
    host: str = "127.0.0.1",
    port: int | None = None,
) -> None:
    """Load the models and serve the Space until the process ends: what `modalbridge demo` does.

    Args:
        model: Directory or repo id; None takes what `make demo` leaves.
        points: A second model, for point clouds; None takes modalbridge-pc if it is there.
        stores: Folder of the demo's stores; None looks beside the model.
        host: Address to listen at.
        port: Port; None takes the first free one from 7860 on.

    Raises:
        FileNotFoundError: If there is no model.
    """
    if threading.current_thread() is threading.main_thread():
        signal.signal(signal.SIGTERM, lambda *_: sys.exit(0))  # so that what is deleted at exit is deleted
    launch(World(find_models(model, points), stores), host, port)
