"""Recipes of the embedded models; nothing here is imported by the package."""
