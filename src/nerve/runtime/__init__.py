"""What runs a graph, and what is known of the machine that it runs on."""
