"""How fast the server answers, side by side with its peers and with other versions of itself."""
