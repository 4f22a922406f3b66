"""What BatchNorm's statistics and the weights themselves say for and against a reading."""
