"""The folder of shipped search spaces (TOML files)."""
