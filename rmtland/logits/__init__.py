"""Statistics of (logits, labels, logit gradients), whoever supplies them."""
