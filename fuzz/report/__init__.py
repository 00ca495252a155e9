"""What a run came to, for people and machines: one Report, and a renderer for each form in which it is read."""
