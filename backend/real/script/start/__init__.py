"""A folder for PYTHONPATH: its sitecustomize starts the simulation in every Python process that a script starts."""
