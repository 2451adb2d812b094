"""Gradio's own parts in the colours of the page, which `style.css` holds for light and dark."""

import gradio as gr


def theme() -> gr.themes.Base:
    """The theme: every colour is a variable of `style.css`, and the fonts are those of the computer."""
    colours = {
        "body_background_fill": "--paper",
        "body_text_color": "--ink",
        "body_text_color_subdued": "--muted",
        "background_fill_primary": "--paper",
        "background_fill_secondary": "--panel",
        "border_color_primary": "--faint",
        "border_color_accent": "--accent",
        "block_background_fill": "--paper",
        "block_border_color": "--faint",
        "block_label_background_fill": "--paper",
        "block_label_text_color": "--muted",
        "block_title_text_color": "--muted",
        "input_background_fill": "--paper",
        "input_background_fill_focus": "--paper",
        "input_border_color": "--faint",
        "input_border_color_focus": "--accent",
        "input_placeholder_color": "--muted",
        "button_primary_background_fill": "--accent",
        "button_primary_text_color": "--paper",
        "button_secondary_background_fill": "--paper",
        "button_secondary_background_fill_hover": "--panel",
        "button_secondary_border_color": "--faint",
        "button_secondary_text_color": "--accent",
        "checkbox_background_color": "--paper",
        "checkbox_background_color_selected": "--accent",
        "checkbox_border_color": "--faint",
        "checkbox_border_color_focus": "--accent",
        "checkbox_border_color_selected": "--accent",
        "checkbox_label_background_fill": "--paper",
        "checkbox_label_background_fill_hover": "--panel",
        "checkbox_label_background_fill_selected": "--paper",
        "checkbox_label_border_color": "--faint",
        "checkbox_label_text_color": "--ink",
        "checkbox_label_text_color_selected": "--ink",
        "error_background_fill": "--paper",
        "error_text_color": "--warm",
        "link_text_color": "--accent",
        "panel_background_fill": "--paper",
    }
    colours = {name: f"var({colour})" for name, colour in colours.items()}
    dark = {f"{name}_dark": colour for name, colour in colours.items()}
    fonts = ["system-ui", "-apple-system", "Segoe UI", "Roboto", "Helvetica Neue", "Arial", "sans-serif"]
    base = gr.themes.Base(font=fonts, font_mono=["ui-monospace", "Consolas", "monospace"])
    return base.set(color_accent="var(--accent)", **colours, **dark)
