"""The settings of a run: declaration, validation, conversion and reference."""
