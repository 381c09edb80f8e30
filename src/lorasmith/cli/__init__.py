"""The command line: one file for each command. Nothing in this package imports torch before a command runs."""
