"""The processes of `nerve serve`: the supervisor, which owns the socket, and its workers."""
