"""How the server holds up: overload, slow clients, long runs, large requests and a proxy in front of it."""
