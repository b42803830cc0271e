"""The demo: a small world of our own, recordings of a flawed expert in it, and the recipe of the tiny policy that learns from them."""
