"""Who may speak to the server, and how it proves who it is."""
