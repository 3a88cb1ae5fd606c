"""Parts of other programs' libraries that nerve fills: one module each, behind the extra of the same name."""
