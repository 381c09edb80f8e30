"""What every layer stands on: errors, typed components, randomness, safe files. Imports nothing else of Lorasmith."""
