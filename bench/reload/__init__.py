"""What becomes of calls while models are loaded, unloaded and changed under them."""
