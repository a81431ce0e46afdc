"""The site, and in `tools` what builds it."""
