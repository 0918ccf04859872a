"""Exim."""
