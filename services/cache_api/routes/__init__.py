"""The HTTP face, thin: a route reads its input, asks the domain, and answers."""
