"""setup"""

from __future__ import annotations

import gradio as gr

from app.frame import Frame
from app.live import Live


def build(frame: Frame, tab: gr.Tab) -> list[Live]:
    gr.Markdown("setup")
    return []
