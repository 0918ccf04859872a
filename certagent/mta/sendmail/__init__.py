"""Sendmail."""
