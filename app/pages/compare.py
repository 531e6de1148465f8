"""The fourth place: base model, LoRA and DoRA side by side."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app.compare_form import choices, jobs
from app.comparisons import entries
from app.frame import Frame
from app.live import Live, Shown
from app.studio import Studio
from app.widgets.widget import widget


def build(frame: Frame, tab: gr.Tab) -> list[Live]:
    shared = ("sets-shared", "files-shared")
    with gr.Row(elem_id="compare-body"):
        with gr.Column(scale=3, min_width=300):
            form = widget("compare", label="Compare", shared=shared)
        with gr.Column(scale=8, min_width=320):
            widget("comparison", {}, label="Comparison", shared=shared)
    frame.leads_to(form.setup, "setup")
    return [Live(form, view, "compare")]


def view(studio: Studio, shown: Shown) -> dict[str, Any]:
    return {"runs": choices(studio), "jobs": jobs(studio), "made": entries(studio)}
