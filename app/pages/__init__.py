"""The five places of the page, a module each with `build(frame, tab)`."""
