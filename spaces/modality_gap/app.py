"""The Space: two arrays in, a report out.

`evaluate.utils.launch_gradio_widget` is written for gradio 3 (`gr.inputs` is gone since gradio 4) and wants rows typed
into a table; embeddings come as files.
"""

from __future__ import annotations

from pathlib import Path

import evaluate
import gradio as gr
import numpy as np

HERE = Path(__file__).parent
MAX_ROWS = 20_000
module = evaluate.load(str(HERE))


def measure(source: str, target: str, paired: bool) -> tuple[str, dict]:
    """Compare two .npy files of rows (n, dim).

    Args:
        source: Path of the source's file.
        target: Path of the target's file.
        paired: Whether equal rows belong together.

    Returns:
        Tables in Markdown, and all numbers.

    Raises:
        gr.Error: If a file is missing or cannot be read as rows.
    """
    from hf_modalbridge import GapReport

    if not source or not target:
        raise gr.Error("Give two .npy files, one for each side.")
    try:
        sides = [np.load(path, allow_pickle=False)[:MAX_ROWS] for path in (source, target)]
        report = GapReport.compute(*sides, pairs=paired, sample=2000, bootstrap=100)
    except (ValueError, TypeError, OSError) as error:
        raise gr.Error(str(error)) from error
    return report.to_markdown(), report.to_dict()


def build() -> gr.Blocks:
    """Build the page.

    Returns:
        The blocks, not launched.
    """
    readme = (HERE / "README.md").read_text(encoding="utf-8").split("---\n", 2)[2]
    with gr.Blocks(title="Modality gap") as page:
        gr.Markdown(f"# Modality gap\n{module.description}")
        with gr.Row():
            source = gr.File(label="source rows, .npy (n, dim)", file_types=[".npy"], type="filepath")
            target = gr.File(label="target rows, .npy (m, dim)", file_types=[".npy"], type="filepath")
        paired = gr.Checkbox(label="Equal rows belong together")
        button = gr.Button("Measure", variant="primary")
        tables = gr.Markdown()
        with gr.Accordion("All numbers", open=False):
            numbers = gr.JSON()
        button.click(measure, [source, target, paired], [tables, numbers], api_name="measure")
        with gr.Accordion("About", open=False):
            gr.Markdown(readme)
    return page


if __name__ == "__main__":
    build().launch()
