"""HTTP in and out: routes, one prediction from its head to its answer, deadlines, errors, access log and traces."""
