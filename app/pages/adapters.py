"""The fifth place: the files that were made, and where they work."""

from __future__ import annotations

import gradio as gr

from app import adapters_view
from app.frame import Frame
from app.live import Live
from app.widgets.widget import widget


def build(frame: Frame, tab: gr.Tab) -> list[Live]:
    shared = ("sets-shared", "files-shared")
    with gr.Row(elem_id="adapters-body"):
        with gr.Column(scale=8, min_width=320):
            files = widget("adapters", label="Adapters", shared=shared)
        with gr.Column(scale=4, min_width=300):
            widget("what-is", {}, label="What is this file?", shared=shared)
    frame.leads_to(files.setup, "setup")
    return [Live(files, adapters_view.view, "adapters")]
