"""This machine: files, programs, processes, its clock."""
