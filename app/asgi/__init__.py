"""HTTP: routes, responses and the middleware around them."""
