"""How the pages look: system fonts, colours that hold in light and dark, one column on a phone."""

from __future__ import annotations

from typing import Any

__all__ = ["CSS", "HEAD", "theme"]

CSS = """
.gradio-container { width: 100% !important; max-width: min(1180px, 100vw) !important; min-width: 0 !important;
  margin: 0 auto !important; box-sizing: border-box; }
.mb-head h1 { margin: 0.2rem 0 0; font-size: 1.5rem; }
.mb-head p, .mb-lead p { margin: 0.1rem 0 0.4rem; color: var(--body-text-color-subdued); }
.mb-empty { padding: 1.4rem 1rem; text-align: center; color: var(--body-text-color-subdued);
  border: 1px dashed var(--border-color-primary); border-radius: var(--radius-lg); }
.mb-note { padding: 0.55rem 0.8rem; border-left: 3px solid var(--primary-500);
  background: var(--background-fill-secondary); border-radius: 4px; color: var(--body-text-color);
  overflow-wrap: anywhere; }
figcaption + .mb-note, .mb-note + .mb-note, .mb-note + .mb-wide { margin-top: 0.5rem; }
.mb-note.warn { border-left-color: #d97706; }
.mb-shown { display: block; max-width: 100%; max-height: 340px; margin: 0 auto; border-radius: var(--radius-lg);
  background: #fff; }
.mb-head, .mb-lead, .gradio-container h3 { margin: 0; }
.gradio-container h3 { font-size: 0.95rem; }
figure { margin: 0; }
figcaption { font-size: 0.82rem; color: var(--body-text-color-subdued); text-align: center; margin-top: 0.3rem;
  overflow-wrap: anywhere; }
.mb-sides { display: grid; grid-template-columns: 1fr 1fr; gap: 1.2rem; }
.mb-sides h3 { margin: 0 0 0.2rem; font-size: 1rem; }
.mb-sides p { margin: 0 0 0.6rem; font-size: 0.9rem; color: var(--body-text-color-subdued); }
.mb-grid { display: grid; grid-template-columns: repeat(auto-fill, minmax(92px, 1fr)); gap: 0.6rem; }
.mb-grid img, .mb-text { width: 100%; aspect-ratio: 1; object-fit: contain; background: #fff;
  border-radius: var(--radius-md); border: 1px solid var(--border-color-primary); }
.mb-text { display: flex; align-items: center; justify-content: center; padding: 0.3rem; font-size: 0.78rem;
  line-height: 1.25; color: #374151; background: #f3f4f6; overflow: hidden; overflow-wrap: anywhere;
  text-align: center; box-sizing: border-box; }
.dark .mb-text { background: #374151; color: #f3f4f6; }
.mb-grid b { font-variant-numeric: tabular-nums; color: var(--body-text-color); }
.mb-rows { width: 100%; border-collapse: collapse; font-size: 0.9rem; }
.mb-rows td, .mb-rows th { padding: 0.35rem 0.5rem; text-align: left; vertical-align: top;
  border-bottom: 1px solid var(--border-color-primary); overflow-wrap: anywhere; color: var(--body-text-color); }
.mb-rows th { font-weight: 600; white-space: nowrap; }
.prose .mb-rows, .prose .mb-rows tr, .prose .mb-rows td, .prose .mb-rows th { border-width: 0 0 1px 0; }
.mb-rows img { vertical-align: middle; border-radius: 4px; background: #fff; }
#chat-question button.submit-button, #imagine-text button.submit-button {
  background: var(--button-primary-background-fill); color: var(--button-primary-text-color);
  border-radius: var(--radius-md); padding: 0.3rem 0.9rem; }
summary { cursor: pointer; margin: 0.7rem 0 0.4rem; color: var(--body-text-color); font-size: 0.9rem; }
.mb-chips { gap: 0.4rem !important; flex-wrap: wrap; }
.mb-chips button { min-width: 0 !important; width: auto !important; flex: 0 1 auto !important; font-weight: 400; }
.mb-wide { overflow-x: auto; }
.mb-wide .mb-rows td, .mb-wide .mb-rows th { overflow-wrap: normal; padding: 0.35rem; }
#chat-drop .icon-wrap, #bring-drop .icon-wrap, #gap-source .icon-wrap, #gap-target .icon-wrap { display: none; }
#chat-examples { min-width: 0 !important; }
#chat-examples .grid-container { grid-template-columns: repeat(auto-fill, minmax(78px, 1fr)) !important; }
@media (max-width: 640px) {
  .mb-grid { grid-template-columns: repeat(auto-fill, minmax(76px, 1fr)); }
  .mb-sides { grid-template-columns: 1fr; }
  .mb-head h1 { font-size: 1.25rem; }
}
"""

# the page's own stylesheet is confined to what is inside the frame that this rule is about
HEAD = """<meta name="referrer" content="no-referrer">
<style>@media (max-width: 640px) { .gradio-container .main.fillable.app { padding: 0.75rem !important; } }</style>"""


def theme() -> Any:
    """Make the theme; no font is fetched from anywhere.

    Returns:
        A `gradio.themes` theme.
    """
    import gradio as gr

    return gr.themes.Soft(
        primary_hue=gr.themes.colors.blue,
        neutral_hue=gr.themes.colors.slate,
        font=["system-ui", "sans-serif"],
        font_mono=["ui-monospace", "monospace"],
        radius_size=gr.themes.sizes.radius_md,
    ).set(
        block_label_background_fill="*block_background_fill",
        block_label_background_fill_dark="*block_background_fill",
        block_label_text_color="*body_text_color_subdued",
        block_label_text_color_dark="*body_text_color_subdued",
        block_title_background_fill="transparent",
        block_title_background_fill_dark="transparent",
        block_title_text_color="*body_text_color",
        block_title_text_color_dark="*body_text_color",
        block_title_padding="0",
        block_border_width="1px",
        block_shadow="none",
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        body_text_color_subdued="*neutral_500",
        body_text_color_subdued_dark="*neutral_300",
    )
