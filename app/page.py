"""The page: a header, the runs at the side, and five places in the order in which a person works."""

from __future__ import annotations

from typing import Any

import gradio as gr

from app import api, runs_list, system, trash
from app.frame import PLACES, Frame, go_to
from app.known_runs import known_runs
from app.live import SECONDS, Live, Shown, changes
from app.pages import adapters, compare, images, setup, train
from app.studio import Studio
from app.widgets.widget import widget

BUILDERS = {"images": images, "setup": setup, "train": train, "compare": compare, "adapters": adapters}


def build_page(studio: Studio) -> gr.Blocks:
    with gr.Blocks(title="DoRA Studio", analytics_enabled=False, fill_width=True, delete_cache=(3600, 86400)) as page:
        place = gr.Textbox("images", label="Place", visible="hidden")
        run_id = gr.Textbox("", label="Run", visible="hidden")
        seen = gr.Textbox("", label="Seen", visible="hidden")
        header = widget("header", label="Machine")
        with gr.Sidebar(open=False, width=300, elem_id="sidebar"):
            runs = widget("runs", label="Runs")
            thrown = widget("trash", label="Trash", shared=("sets-shared", "files-shared"))
        with gr.Tabs(elem_id="places") as tabs:
            frame = Frame(studio, page, tabs, place, run_id)
            lives = [Live(header, system.header), Live(runs, runs_list.entries), Live(thrown, trash.count)]
            for name, title in PLACES.items():
                with gr.Tab(title, id=name, elem_id=f"place-{name}") as tab:
                    lives += BUILDERS[name].build(frame, tab)
                tab.select(lambda name=name: name, outputs=place, api_visibility="private", show_progress="hidden")
        # "multiple": else the second of two quick clicks would be dropped.
        choice: dict[str, Any] = {"outputs": [tabs, place, run_id], "trigger_mode": "multiple"}
        runs.select(_chosen, api_visibility="private", show_progress="hidden", **choice)
        page.load(_open(studio), outputs=[tabs, place, run_id], api_visibility="private", show_progress="hidden")
        _follow(frame, lives, seen)
        api.register(studio)
    return page


def _chosen(event: gr.EventData) -> tuple[gr.Tabs, str, str]:
    run = str(event._data["run"])  # where Gradio puts a custom event's data
    return go_to("train"), "train", run


def _open(studio: Studio) -> Any:
    """What a page shows when it is opened: what its address says, else the run that works, else the pictures."""

    def opened(request: gr.Request) -> tuple[gr.Tabs, str, str]:
        asked = dict(request.query_params)
        listed = known_runs(studio.home).all()
        working = next((known.run.id for known in listed if known.status.is_live), "")
        run = asked.get("run") or working or (listed[0].run.id if listed else "")
        place = asked["place"] if asked.get("place") in PLACES else ("train" if working else "images")
        return go_to(place), place, run

    return opened


def _follow(frame: Frame, lives: list[Live], seen: gr.Textbox) -> None:
    def tick(place: str, run_id: str, sent: str) -> list[Any]:
        now, updates = changes(frame.studio, lives, Shown(place, run_id), sent)
        return [now, *updates]

    outputs = [seen, *(live.widget for live in lives)]
    settings: dict[str, Any] = {
        "inputs": [frame.place, frame.run_id, seen],
        "outputs": outputs,
        "show_progress": "hidden",
        "api_visibility": "private",
        "concurrency_limit": None,
        "trigger_mode": "once",  # a slow tick is skipped, not queued
    }
    gr.Timer(SECONDS).tick(tick, **settings)
    gr.on([frame.place.change, frame.run_id.change], tick, **settings)
