"""A widget is a gr.HTML component: three static files beside this one, and a value that is JSON text.

The template never contains data. Gradio evaluates templates as JavaScript, so a caption in one would run; and it makes
deep proxies of nested values, which is slow. A string that the widget's own script parses and puts into the page with
textContent is neither. `run-card.html` is the shell, `run-card.css` belongs to it alone, `run-card.js` gets `element`,
`props`, `trigger`, `server`, `upload` and `watch` from Gradio, and `read()` and `show(render)` from the lines below.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import gradio as gr

FOLDER = Path(__file__).parent
# A value that is empty or torn must not stop a widget from showing the next one. data-rev tells tests what is drawn.
PRELUDE = """
const read = () => { try { return JSON.parse(props.value || 'null'); } catch { return null; } };
const show = (render) => {
  const draw = () => {
    const data = read();
    if (data === null) return;
    render(data);
    element.dataset.rev = String(Number(element.dataset.rev || 0) + 1);
  };
  watch('value', draw);
  draw();
};
"""


def widget(
    name: str,
    value: object = None,
    *,
    label: str,
    shared: str | tuple[str, ...] = (),
    server_functions: list[Callable[..., object]] | None = None,
    **settings: object,
) -> gr.HTML:
    """The widget of that name with a value; `label` is what a screen reader calls it, `settings` are gr.HTML's.

    `shared`: names of scripts and styles that several widgets begin with.
    """
    shell, style, script = (_text(name, kind) for kind in ("html", "css", "js"))
    for each in reversed((shared,) if isinstance(shared, str) else shared):
        style, script = _text(each, "css") + style, _text(each, "js") + script
    return gr.HTML(
        to_json(value),
        html_template=f'<section class="{name}" aria-label="{label}">{shell}</section>',
        css_template=style,
        js_on_load=PRELUDE + script,
        server_functions=server_functions,
        elem_id=name,
        **settings,  # type: ignore[arg-type] - passed on
    )


def _text(name: str, kind: str) -> str:
    return (FOLDER / f"{name}.{kind}").read_text(encoding="utf-8")


def to_json(value: object) -> str:
    """As the widget's value. Numbers that are not finite have no JSON: they must have become None before.

    Gradio warns of every value with a script tag in it, such as a caption that has one; this text has no tags.
    """
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"), allow_nan=False).replace("<", "\\u003c")
