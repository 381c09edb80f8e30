"""From a configuration to a run that is ready to train."""
