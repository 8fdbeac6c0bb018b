"""The student edition: source files with bodies left out, and the check of what a learner writes."""
