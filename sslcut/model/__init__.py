"""Networks as chains of named blocks."""
