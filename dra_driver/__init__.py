"""The DRA driver; nothing is here yet. It will import ``scheduler.model`` only."""
