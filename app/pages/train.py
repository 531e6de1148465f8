"""The third place: one run, from its first step to its last."""

from __future__ import annotations

import gradio as gr

from app import train_view
from app.frame import Frame
from app.live import Live
from app.widgets.widget import widget


def build(frame: Frame, tab: gr.Tab) -> list[Live]:
    with gr.Row(elem_id="train-body"):
        with gr.Column(scale=6, min_width=320, elem_id="train-left"):
            card = widget("run-card", label="Run", shared="sets-shared")
            chart = widget("loss-chart", label="Loss", shared="sets-shared")
            health = widget("health", label="Health of the adapter", shared="sets-shared")
            log = widget("run-log", label="Log", shared="sets-shared")
        with gr.Column(scale=5, min_width=320, elem_id="train-right"):
            samples = widget("sample-matrix", label="Samples", shared="sets-shared")
    card.other(_other, outputs=frame.run_id, trigger_mode="multiple", api_visibility="private", show_progress="hidden")
    frame.leads_to(card.pictures, "images")
    frame.leads_to(card.setup, "setup")
    return [
        Live(card, train_view.card, "train"),
        Live(chart, train_view.chart, "train"),
        Live(samples, train_view.samples, "train"),
        Live(health, train_view.health, "train"),
        Live(log, train_view.log, "train"),
    ]


def _other(event: gr.EventData) -> str:
    return str(event._data["run"])  # where Gradio puts a custom event's data
