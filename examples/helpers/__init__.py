"""What several examples need, or what would hide the point of one: no programs."""
