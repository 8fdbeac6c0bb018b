"""Options: what a run is made from; their fields are the flags of the command line."""
