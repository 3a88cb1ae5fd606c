"""What clients speak: one module per wire format."""
