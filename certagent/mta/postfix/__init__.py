"""Postfix."""
