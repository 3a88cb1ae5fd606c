"""Which work runs next: the queue, the threads that serve it, and the rules by which they do."""
