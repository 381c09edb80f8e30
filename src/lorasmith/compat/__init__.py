"""Training scripts of other programs, run by name with the options and files of the original."""
