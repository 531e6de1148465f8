"""The second place: what is trained, and how."""

from __future__ import annotations

import gradio as gr

from app import setup_view
from app.frame import Frame, go_to
from app.live import Live
from app.widgets.widget import widget


def build(frame: Frame, tab: gr.Tab) -> list[Live]:
    form = widget("setup", label="Settings of the run", shared="sets-shared")
    shown = [frame.tabs, frame.place, frame.run_id]
    form.started(_started, outputs=shown, api_visibility="private", show_progress="hidden")
    frame.leads_to(form.pictures, "images")
    return [Live(form, setup_view.view, "setup")]


def _started(event: gr.EventData) -> tuple[gr.Tabs, str, str]:
    return go_to("train"), "train", str(event._data["run"])  # where Gradio puts a custom event's data
