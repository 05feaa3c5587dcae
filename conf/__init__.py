"""Every number of a run (YAML) and the types and ranges they must have (``schema.py``)."""
