"""The fifth place: the files that were made, and where they work."""

from __future__ import annotations

import gradio as gr

from app import adapters_view
from app.frame import Frame, go_to
from app.live import Live
from app.widgets.widget import widget


def build(frame: Frame, tab: gr.Tab) -> list[Live]:
    shared = ("sets-shared", "files-shared")
    with gr.Row(elem_id="adapters-body"):
        with gr.Column(scale=8, min_width=320):
            files = widget("adapters", label="Adapters", shared=shared)
        with gr.Column(scale=4, min_width=300):
            widget("what-is", {}, label="What is this file?", shared=shared)
    files.setup(
        lambda: (go_to("setup"), "setup"),
        outputs=[frame.tabs, frame.place],
        api_visibility="private",
        show_progress="hidden",
    )
    return [Live(files, adapters_view.view, "adapters")]
