"""The training loop and its parts; all access to the environment goes through the `Runtime` protocol."""
