"""The first place: pictures and what they are called."""

from __future__ import annotations

import gradio as gr

from app import set_view
from app.frame import Frame
from app.image_sets import ImageSets
from app.live import Live, Shown
from app.widgets.widget import to_json, widget

VIEWS = {"sets": set_view.sets, "captions": set_view.cards, "upload": set_view.upload, "wording": set_view.wording}
LABELS = {"sets": "Sets", "captions": "Pictures", "upload": "Add pictures", "wording": "Words"}


def build(frame: Frame, tab: gr.Tab) -> list[Live]:
    ImageSets(frame.studio.sets).offer_samples()
    widgets = {"sets": _widget("sets")}
    with gr.Row(elem_id="images-body"):
        with gr.Column(scale=7, min_width=320, elem_id="images-cards"):
            widgets["captions"] = _widget("captions")
        with gr.Column(scale=3, min_width=300, elem_id="images-side"):
            widgets["upload"] = _widget("upload")
            widget("seen", label="What the model will see", shared="sets-shared")
            widgets["wording"] = _widget("wording")

    def fresh() -> list[str]:
        """What a widget that has changed something asks for, rather than wait for the next second."""
        shown = Shown("images", "")
        return [to_json(VIEWS[name](frame.studio, shown)) for name in widgets]

    for each in widgets.values():
        each.changed(fresh, outputs=list(widgets.values()), api_visibility="private", show_progress="hidden")
    frame.leads_to(widgets["sets"].setup, "setup")
    return [Live(each, VIEWS[name], "images") for name, each in widgets.items()]


def _widget(name: str) -> gr.HTML:
    return widget(name, label=LABELS[name], shared="sets-shared")
