"""From an outcome to something that others can use: the smallest case, a script, an issue text, a corpus entry."""
