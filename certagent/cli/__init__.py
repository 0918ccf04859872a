"""The command line: one file per group of commands, loaded when it is used. `main` is the program.

Results go to standard output; progress and errors to standard error, in lower case, as `certagent: error: …` and
`hint: …`. With `--json` one document goes to standard output and nothing else. No traceback and no secret, ever.
"""
