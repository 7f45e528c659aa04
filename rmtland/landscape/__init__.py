"""The random model of Fort and Ganguli: a logit law and a gradient law."""
