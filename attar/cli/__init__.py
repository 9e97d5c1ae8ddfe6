"""The command line. To add a verb, add a file with a function of the same name; `main.py` finds it."""
