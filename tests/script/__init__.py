"""The words of the command line, as readable scripts: one file per situation, see `test_script.py`."""
