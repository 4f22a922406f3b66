"""From the packed network to scores: a plan for this CPU, and `Model`, the object a user holds."""
