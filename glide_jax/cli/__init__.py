"""The `glide` command: one module a verb."""
