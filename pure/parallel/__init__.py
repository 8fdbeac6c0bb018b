"""Many processes: groups, collectives over trees, states as rows. Without a group each is the identity."""
