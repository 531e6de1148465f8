"""A comparison as one HTML page: no script, nothing from elsewhere, pictures embedded, light and dark."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Sequence
from pathlib import Path

from PIL import Image

from dora_core.consumers import BY_KEY
from trainer.compare.manifest import GRID, MANIFEST, PLOT, AnalysisEntry, ColumnEntry, Manifest

SHOWN_PX = 512  # larger pictures are embedded at this size, and link to the whole one

STYLE = """
:root { color-scheme: light dark; --ink: #1c1e21; --soft: #5d646d; --line: #d9dce1; --paper: #fff; --card: #f5f6f8;
  --link: #0b57d0 }
@media (prefers-color-scheme: dark) {
  :root { --ink: #e6e8eb; --soft: #a0a7b1; --line: #363b43; --paper: #15171a; --card: #1e2125; --link: #8ab4f8 } }
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); margin: 2rem }
p, ul, dl, pre, .plot { max-width: 72rem }
h1 { font-size: 1.5rem; margin: 0 } h2 { font-size: 1.1rem; margin: 2.5rem 0 .6rem }
a { color: var(--link) } .soft, figcaption { color: var(--soft) }
.wide { overflow-x: auto } table { border-collapse: collapse }
.grid td, .grid th { padding: .3rem; vertical-align: top; text-align: left; font-weight: 600 }
.grid { --cell: clamp(6.5rem, 24vw, 14rem) }
.grid thead th { min-width: var(--cell); max-width: var(--cell) } .grid tbody th { min-width: 6.5rem; max-width: 9rem }
.grid th { overflow-wrap: anywhere } .grid tbody th { position: sticky; left: 0; background: var(--paper) }
figure { margin: 0 } figcaption { font-size: .8rem; font-weight: 400 }
.grid img { display: block; width: var(--cell); border-radius: 4px } .pixels { image-rendering: pixelated }
.figures th, .figures td { border-top: 1px solid var(--line); padding: .4rem 1.2rem .4rem 0; text-align: right;
  white-space: nowrap; font-variant-numeric: tabular-nums }
.figures :is(th, td):is(:nth-child(1), :nth-child(2)) { text-align: left }
.figures thead th { border: 0; color: var(--soft) }
.plot { width: 100%; background: #fff; border-radius: 6px }
dt { font-weight: 600; margin-top: 1rem } dd { margin: 0; overflow-wrap: anywhere }
pre { background: var(--card); padding: .8rem 1rem; border-radius: 6px; white-space: pre-wrap; overflow-wrap: anywhere }
code { font: .85em ui-monospace, monospace }
"""


def page(manifest: Manifest, folder: Path) -> str:
    """`folder` has the pictures and the plot."""
    title = " | ".join(["base", *(entry.title for entry in manifest.analysis)])
    notes = "".join(f"<li>{_text(note)}</li>" for note in manifest.notes)
    base = manifest.base
    return f"""<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>{_text(title)}</title><style>{STYLE}</style></head><body>
<h1>{_text(title)}</h1>
<p class="soft">Base model {_text(base.name)} ({_text(base.family)}), drawn on {_text(base.device)} in
{_text(base.dtype)}, {manifest.made_at:%Y-%m-%d %H:%M} UTC. <a href="{GRID}">One picture of all</a>,
<a href="{MANIFEST}">all numbers</a>.</p>
<div class="wide">{_grid(manifest, folder)}</div>
<p class="soft">Within a row, everything but the weights is the same, noise included. Below each picture: its distance
to the base model's, the root mean square over all pixels, where 100 % is black against white.</p>
{f"<h2>To know</h2><ul>{notes}</ul>" if notes else ""}
<h2>Figures</h2><div class="wide">{_figures(manifest.columns)}</div>
<p class="soft">Seconds (the median), memory and loss are those of the training; &ndash; is what was not measured.</p>
<h2>What changes, layer by layer</h2>
<img class="plot" src="{_embedded(folder / PLOT)}" alt="{_text(_plot_in_words(manifest.analysis))}">
<p class="soft">{_text(_plot_in_words(manifest.analysis))} A layer that did not change at all has no mark.</p>
<h2>Files</h2><dl>{_files(manifest)}</dl>
<h2>Draw it again</h2><pre><code>{_text(manifest.command)}</code></pre>
</body></html>
"""


def _grid(manifest: Manifest, folder: Path) -> str:
    head = "".join(f'<th scope="col">{_text(column.title)}</th>' for column in manifest.columns)
    rows = [
        f'<tr><th scope="row">{_text(row.label)}</th>'
        + "".join(_cell(manifest, folder, number, column) for column in range(len(manifest.columns)))
        + "</tr>"
        for number, row in enumerate(manifest.rows)
    ]
    return f'<table class="grid"><thead><tr><td></td>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table>'


def _cell(manifest: Manifest, folder: Path, row: int, column: int) -> str:
    cell = manifest.cell(row, column)
    alt = f"{manifest.rows[row].label}: {manifest.columns[column].title}"
    kind = ' class="pixels"' if manifest.rows[row].width < SHOWN_PX / 2 else ""
    picture = f'<img{kind} src="{_embedded(folder / cell.picture)}" alt="{_text(alt)}">'
    caption = "" if column == 0 else f"<figcaption>{100 * cell.distance:.1f} %</figcaption>"
    return f'<td><figure><a href="{_text(cell.picture)}">{picture}</a>{caption}</figure></td>'


def _figures(columns: Sequence[ColumnEntry]) -> str:
    heads = ("", "kind", "rank", "steps", "s / step", "peak memory", "file", "validation loss", "distance to base")
    rows = (
        (
            _text(column.title),
            _kind(column),
            ", ".join(map(str, column.ranks)) or "&ndash;",
            _figure(column.steps, "{:,}"),
            _figure(column.seconds_per_step, "{:.3g}"),
            _figure(column.peak_mib, "{:,.0f} MiB"),
            _figure(None if column.bytes is None else column.bytes / 1e6, "{:,.2f} MB"),
            _figure(column.validation_loss, "{:.4f}"),
            _figure(None if column.distance is None else 100 * column.distance, "{:.1f} %"),
        )
        for column in columns
    )
    head = "".join(f'<th scope="col">{name}</th>' for name in heads)
    body = "".join(
        f'<tr><th scope="row">{name}</th>' + "".join(f"<td>{value}</td>" for value in values) + "</tr>"
        for name, *values in rows
    )
    return f'<table class="figures"><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>'


def _kind(column: ColumnEntry) -> str:
    words = {"base": "&ndash;", "lora": "LoRA", "dora": "DoRA", "full": "full fine-tune", "difference": "difference"}
    return words[column.kind] + (f", {column.norm_axis} axis" if column.norm_axis else "")


def _files(manifest: Manifest) -> str:
    once = {column.file: column for column in manifest.columns if column.file is not None}
    return "".join(
        f"<dt>{_text(Path(file).name)}</dt><dd>{_text(column.headline or 'No parity report came with it.')}<br>"
        f"Drawn by the formula of {_text(_formula(column))}.<br><code>sha256 {column.sha256}</code></dd>"
        for file, column in once.items()
    )


def _formula(column: ColumnEntry) -> str:
    assert column.consumer is not None
    compensated = ", whose mistake the file makes up for" if column.layout == "kohya-compensated" else ""
    return f"{column.program} ({BY_KEY[column.consumer].path}){compensated}"


def _plot_in_words(analysis: Sequence[AnalysisEntry]) -> str:
    return " ".join(
        f"{entry.title}, along the {entry.axis} axis: magnitudes change by {entry.magnitude_change:.3g}, "
        f"directions by {entry.direction_change:.3g} on average over {len(entry.layers)} layers"
        + ("." if entry.correlation is None else f"; the two correlate by {entry.correlation:+.2f}.")
        for entry in analysis
    )


def _figure(value: float | None, words: str) -> str:
    return "&ndash;" if value is None else words.format(value)


def _embedded(path: Path) -> str:
    """The file itself, or a smaller picture of it."""
    data, kind = path.read_bytes(), "png"
    with Image.open(path) as picture:
        if path.name != PLOT and max(picture.size) > SHOWN_PX:
            smaller, buffer = picture.convert("RGB"), io.BytesIO()
            smaller.thumbnail((SHOWN_PX, SHOWN_PX))
            smaller.save(buffer, format="JPEG", quality=90)
            data, kind = buffer.getvalue(), "jpeg"
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


def _text(text: str) -> str:
    return html.escape(text)
