"""The training loop and its parts; talks to the outside through the Runtime protocol."""
