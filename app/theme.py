"""Colours, fonts and sizes: zinc surfaces, violet for what can be pressed, cyan for the second of two, red for Stop."""

from __future__ import annotations

from pathlib import Path

from gradio.themes import Base
from gradio.themes.utils import colors, fonts

STATIC = Path(__file__).parent / "static"
# Of the fonts that Gradio ships these are whole in both weights; its semi-bold files lack the letters.
SANS = fonts.LocalFont("IBM Plex Sans", weights=(400, 700))
MONO = fonts.LocalFont("IBM Plex Mono", weights=(400, 700))


def studio_theme() -> Base:
    theme = Base(
        primary_hue=colors.violet,
        secondary_hue=colors.cyan,
        neutral_hue=colors.zinc,
        font=(SANS, "ui-sans-serif", "system-ui", "sans-serif"),
        font_mono=(MONO, "ui-monospace", "Consolas", "monospace"),
    )
    return theme.set(
        body_background_fill="*neutral_50",
        body_background_fill_dark="*neutral_950",
        background_fill_primary_dark="*neutral_900",
        background_fill_secondary_dark="*neutral_900",
        block_background_fill="white",
        block_background_fill_dark="*neutral_900",
        block_border_color_dark="*neutral_800",
        block_border_width="1px",
        block_radius="12px",
        block_label_background_fill="transparent",
        block_label_background_fill_dark="transparent",
        block_label_border_width="0px",
        block_title_text_weight="700",
        block_label_text_weight="700",
        block_shadow="none",
        border_color_primary_dark="*neutral_800",
        input_background_fill="*neutral_50",
        input_background_fill_dark="*neutral_950",
        input_border_color_dark="*neutral_700",
        input_radius="8px",
        button_large_radius="10px",
        button_small_radius="8px",
        button_large_text_weight="700",
        button_small_text_weight="700",
        button_primary_background_fill="*primary_600",
        button_primary_background_fill_hover="*primary_700",
        button_primary_background_fill_dark="*primary_600",
        button_primary_background_fill_hover_dark="*primary_500",
        button_primary_text_color="white",
        button_secondary_background_fill="*neutral_200",
        button_secondary_background_fill_dark="*neutral_800",
        button_secondary_background_fill_hover_dark="*neutral_700",
        button_cancel_background_fill="#fee2e2",
        button_cancel_background_fill_hover="#fecaca",
        button_cancel_text_color="#b91c1c",
        button_cancel_background_fill_dark="#450a0a",
        button_cancel_background_fill_hover_dark="#7f1d1d",
        button_cancel_text_color_dark="#fecaca",
        slider_color="*primary_600",
        slider_color_dark="*primary_500",
        layout_gap="16px",
    )


def stylesheet() -> str:
    return (STATIC / "studio.css").read_text(encoding="utf-8")
