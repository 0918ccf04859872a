"""This machine: its files, programs, processes and clock."""
