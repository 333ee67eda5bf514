"""From a prompt and sampling bundles to pictures; never imports the trainer."""
