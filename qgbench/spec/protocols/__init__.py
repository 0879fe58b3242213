"""The protocols that ship with qgbench, one TOML file each."""
