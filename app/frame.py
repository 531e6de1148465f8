"""What the five places share: the studio, the tabs, which run is looked at, and the clock."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import gradio as gr

from app.studio import Studio

PLACES: Mapping[str, str] = {
    "images": "1 Images",
    "setup": "2 Setup",
    "train": "3 Train",
    "compare": "4 Compare",
    "adapters": "5 Adapters",
}


@dataclass(frozen=True)
class Frame:
    """Handed to each place's `build(frame, tab) -> list[Live]`.

    `place` and `run_id` are of one browser tab: which place it shows, and the run that Train is about. They are in the
    address as well (?place=train&run=...), so a refresh and a bookmark come back to the same view. They are fields that
    nobody sees, not states: the browser has them, so a page goes on when the server was killed and started again. (A
    state would also hold a connection for each tab, of which a browser has six.) All else is on disk.
    """

    studio: Studio
    page: gr.Blocks
    tabs: gr.Tabs
    place: gr.Textbox
    run_id: gr.Textbox

    def leads_to(self, event: Callable[..., object], place: str) -> None:
        """Show a place when a widget sends this event of its own, such as `form.setup`."""
        outputs = [self.tabs, self.place]
        event(lambda: (go_to(place), place), outputs=outputs, api_visibility="private", show_progress="hidden")


def go_to(place: str) -> gr.Tabs:
    """The update of `frame.tabs` that shows a place."""
    return gr.Tabs(selected=place)
