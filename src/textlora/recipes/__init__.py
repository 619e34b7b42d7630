"""Shipped recipes: TOML files whose keys are textlora.config's; each opens with its command, time and score."""
