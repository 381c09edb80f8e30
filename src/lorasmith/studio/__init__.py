"""The studio: runs, data, configs and LoRA files in the browser.

It has no state of its own: folders, captions, configs and `events.jsonl` are the state, so runs that were started in a
terminal show too, and closing the studio changes nothing. The server imports no torch; what needs a model is done by
the command line in a process of its own.
"""
