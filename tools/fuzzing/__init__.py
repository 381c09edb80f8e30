"""Fuzzing: the program gets thousands of files and command lines that nobody meant, and must answer each in words."""
