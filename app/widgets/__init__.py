"""The widgets that Gradio has no good one for."""
