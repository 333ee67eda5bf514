"""An HTTP server that draws pictures, its requests joined in batches."""
