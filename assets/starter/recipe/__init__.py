"""How the starter model is made: one module a stage, run in order by `build.py`."""
