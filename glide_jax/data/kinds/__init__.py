"""The kinds of data sources, one module each; see `data.source_kinds`."""
