"""Where weights change."""
