"""From logits to a token: the sampler chain and what constrains it."""
